"""The door to PyTorch opens only when asked for, and says what is missing."""

from __future__ import annotations

import doctest
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import normdrop

FUNCTIONS = [f"functional.{name}" for name in ("_batch_norm", "_batch_norm_act", "_dropout")]
MODULES = ["_accelerate", "_arrays", "_gradients", "_operators", "batch_norm", "distributed", "dropout", *FUNCTIONS]


def _opened() -> None:
    """Run the code of `import normdrop.torch` once more."""
    file = Path(normdrop.__file__).parent / "torch" / "__init__.py"
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), {"__name__": "normdrop.torch"})


def test_without_pytorch_the_error_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError) as caught:
        _opened()
    assert str(caught.value) == 'normdrop.torch needs PyTorch: pip install "normdrop[torch]"'
    assert caught.value.__suppress_context__


def test_a_module_that_pytorch_itself_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import missing_part_of_pytorch", encoding="utf-8")
    for name in [name for name in sys.modules if name == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="missing_part_of_pytorch"):
        _opened()


def test_without_ml_dtypes_bfloat16_is_left_to_pytorch(in_subprocess: Callable[..., str]) -> None:
    pytest.importorskip("torch")
    code = """
    import importlib.util

    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "ml_dtypes" else found(name, *rest)
    import torch
    from normdrop.torch import _arrays

    print([_arrays.is_served(torch.ones(2, dtype=dtype)) for dtype in (torch.bfloat16, torch.float16)])
    """
    assert in_subprocess(code).strip() == "[False, True]"


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
    from normdrop.functional import _masking
    from normdrop.torch import functional

    if numba.config.NUMBA_NUM_THREADS == 1:
        pytest.skip("Numba has one thread")
    seen, apply = [], _masking.apply
    monkeypatch.setattr(_masking, "apply", lambda *given: (seen.append(numba.get_num_threads()), apply(*given))[1])
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
