"""The door to PyTorch opens only when asked for, and says what is missing."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable

import pytest

MODULES = ["_accelerate", "_arrays", "_gradients", "_operators", "batch_norm", "dropout", "functional"]


def test_without_pytorch_the_error_is_one_line_that_names_the_extra(in_subprocess: Callable[..., str]) -> None:
    code = """
    import sys

    sys.modules["torch"] = None
    try:
        import normdrop.torch
    except ImportError as error:
        print(error, error.__cause__, error.__suppress_context__)
    """
    expected = 'normdrop.torch needs PyTorch: pip install "normdrop[torch]" None True'
    assert in_subprocess(code).strip() == expected


def test_importing_normdrop_alone_imports_no_pytorch(in_subprocess: Callable[..., str]) -> None:
    assert in_subprocess("import sys, normdrop; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("module", ["", *MODULES])
def test_examples_of_the_door_run(module: str) -> None:
    pytest.importorskip("torch")
    found = importlib.import_module("normdrop.torch" + (module and f".{module}"))
    result = doctest.testmod(found, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0 or module.startswith("_") or not module


def test_kernels_run_on_no_more_threads_than_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    numba = pytest.importorskip("numba")
    from normdrop.functional import masking
    from normdrop.torch import functional

    if numba.config.NUMBA_NUM_THREADS == 1:
        pytest.skip("Numba has one thread")
    seen, apply = [], masking.apply
    monkeypatch.setattr(masking, "apply", lambda *given: (seen.append(numba.get_num_threads()), apply(*given))[1])
    before, x = torch.get_num_threads(), torch.ones(1 << 20)
    every = numba.get_num_threads()
    try:
        for n in (1, every):
            torch.set_num_threads(n)
            functional.dropout(x, 0.5)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, every]
    assert numba.get_num_threads() == every
