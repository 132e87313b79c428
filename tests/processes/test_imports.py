"""Importing normdrop is cheap, silent and changes nothing; its public names are what it says (law 2.6)."""

from __future__ import annotations

import inspect
import sys
import types
from importlib import metadata

import pytest

import normdrop
from normdrop import _process, functional, layers

HEAVY = ["numba", "llvmlite", "scipy", "torch", "tensorflow", "matplotlib", "sklearn", "pandas", "cupy", "rich"]

LOADED = f"""
    import sys

    def loaded():
        return sorted(name for name in sys.modules if name.split(".")[0] in {HEAVY!r})
"""


def test_importing_loads_no_compiler_no_framework_and_prints_nothing(in_subprocess):
    assert in_subprocess(LOADED + "    import normdrop\n    print(loaded())", silent=True).strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("byteorder", "big", "this one is 64-bit and big-endian"),
        ("maxsize", 2**31 - 1, f"this one is 32-bit and {sys.byteorder}-endian"),
    ],
)
def test_a_system_that_is_32_bit_or_big_endian_is_refused_at_import(in_subprocess, monkeypatch, name, value, words):
    code = f"""
    import numpy, sys
    sys.{name} = {value!r}
    try:
        import normdrop
    except ImportError as error:
        print(error)
    """
    assert words in in_subprocess(code)
    monkeypatch.setattr(sys, name, value)
    with pytest.raises(ImportError, match=words):
        _process.refuse_other_systems()


def test_making_layers_and_streams_still_loads_no_compiler(in_subprocess):
    code = """
    import numpy as np
    import normdrop

    normdrop.seed(1)
    for layer in (normdrop.Dropout(), normdrop.Dropout2d(rng=3), normdrop.BatchNorm(3, gamma_init="uniform")):
        layer.eval().train().load_state_dict(layer.state_dict())
    print(loaded())
    """
    assert in_subprocess(LOADED + code).strip() == "[]"


def test_importing_starts_no_thread_and_changes_no_setting(in_subprocess):
    code = """
    import os, signal, sys, threading, warnings
    import numpy as np, numpy.random

    def settings():
        tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
        return (
            threading.active_count(), tasks, np.geterr(), np.get_printoptions(), warnings.filters[:],
            repr(np.random.get_state()), dict(os.environ), signal.getsignal(signal.SIGINT), sys.getrecursionlimit(),
            sys.path[:], os.getcwd(), sys.getswitchinterval(),
        )

    before = settings()
    import normdrop
    assert settings() == before
    """
    assert in_subprocess(code) == ""


def test_the_first_call_loads_numba_but_not_its_cuda_target_and_no_framework(in_subprocess):
    code = """
    import numpy as np
    import normdrop

    x = np.ones((4, 3), np.float32)
    for layer in (normdrop.Dropout(0.5, rng=0), normdrop.BatchNorm(3)):
        layer(x)
        layer.backward(x)
    names = loaded()
    assert "numba" in names
    print([n for n in names if n.startswith("numba.cuda") or n.split(".")[0] not in ("numba", "llvmlite", "scipy")])
    """
    assert in_subprocess(LOADED + code).strip() == "[]"


@pytest.mark.jit
def test_a_call_compiles_only_the_kernels_that_it_needs(in_subprocess):
    code = """
    import sys
    import numpy as np
    import normdrop

    normdrop.Dropout(0.5, rng=0)(np.ones(100, np.float32))
    compiled = []
    for name, module in list(sys.modules.items()):
        for kernel in vars(module).values() if name.startswith("normdrop._cpu") else ():
            if type(kernel).__name__ == "Kernel":
                compiled += [(kernel.function.__name__, *map(str, variant)) for variant in kernel._compiled]
    print(sorted(set(compiled)))
    """
    assert in_subprocess(code).strip() == "[('dropout', 'float32', 'None', 'False')]"


def test_the_public_names_are_exactly_all():
    public = {
        name
        for name, value in vars(normdrop).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public | {"functional"} == set(normdrop.__all__)
    assert normdrop.functional is functional
    for module in (functional, layers):
        assert all(getattr(module, name) is not None for name in module.__all__)
        assert sorted(module.__all__, key=str.lower) == sorted(set(module.__all__), key=str.lower)


def test_the_names_that_users_were_promised_are_there():
    promised = "Dropout Dropout1d Dropout2d Dropout3d BatchNorm BatchNorm1d BatchNorm2d BatchNorm3d MaskStream seed"
    promised += " BatchNormAct BatchNormAct1d BatchNormAct2d BatchNormAct3d"
    assert set(promised.split()) <= set(normdrop.__all__)
    forward = "dropout dropout_inference dropout_backward batch_norm batch_norm_backward batch_norm_inference"
    assert {*forward.split(), "batch_norm_inference_backward"} <= set(functional.__all__)


def public_things():
    for module in (normdrop, functional, layers):
        yield module.__name__, module
        for name in module.__all__:
            thing = getattr(module, name)
            yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                for attribute in dir(thing):
                    member = inspect.getattr_static(thing, attribute)
                    if not attribute.startswith("_") and (
                        callable(member) or isinstance(member, (property, classmethod))
                    ):
                        yield f"{module.__name__}.{name}.{attribute}", getattr(thing, attribute)


def test_every_public_name_has_a_docstring():
    assert [name for name, thing in public_things() if not (inspect.getdoc(thing) or "").strip()] == []


def test_the_version_is_that_of_the_installed_package():
    try:
        installed = metadata.version("normdrop")
    except metadata.PackageNotFoundError:
        pytest.skip("normdrop is imported from its source, not installed")
    assert normdrop.__version__ == installed
