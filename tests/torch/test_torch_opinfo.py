"""The functions of normdrop.torch on the inputs by which PyTorch tests its own."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what PyTorch's tests import
    methods = pytest.importorskip(
        "torch.testing._internal.common_methods_invocations",
        reason="PyTorch's tests need packages that are not here",
        exc_type=ImportError,
    )

from normdrop.torch import functional  # noqa: E402  # it needs PyTorch

INFOS = {info.name.rpartition(".")[2]: info for info in reversed(methods.op_db) if info.name.startswith("nn.")}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}


def _samples(name: str, dtype: Any) -> list[Any]:
    torch.manual_seed(0)
    return list(INFOS[name].sample_inputs("cpu", dtype, requires_grad=True))


def _fresh(value: Any) -> Any:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def _results(function: Any, sample: Any) -> list[Any]:
    """Output, gradients and what has become of the arguments, or the error."""
    x, arguments = _fresh(sample.input), [_fresh(value) for value in sample.args]
    options = {name: _fresh(value) for name, value in sample.kwargs.items()}
    tensors = [t for t in (x, *arguments, *options.values()) if isinstance(t, torch.Tensor)]
    try:
        y = function(x, *arguments, **options)
    except Exception as error:
        return [type(error), str(error)]
    wanted = [t for t in tensors if t.requires_grad]
    dy = torch.linspace(-1.0, 1.0, y.numel()).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, wanted, dy, allow_unused=True), *(t.detach() for t in tensors)]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_batch_norm_gives_what_pytorchs_gives_on_the_inputs_of_its_tests(dtype: Any) -> None:
    samples = _samples("batch_norm", dtype)
    assert len(samples) >= 10
    for sample in samples:
        got = _results(functional.batch_norm, sample)
        expected = _results(torch.nn.functional.batch_norm, sample)
        if isinstance(expected[0], type):
            assert got == expected
            continue
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", ["dropout", "dropout2d", "dropout3d"])
@pytest.mark.filterwarnings("ignore:dropout")  # of shapes about which PyTorch guesses
def test_dropout_keeps_or_drops_and_scales_on_the_inputs_of_pytorchs_tests(name: str, dtype: Any) -> None:
    samples = _samples(name, dtype)
    assert len(samples) >= 6
    for sample in samples:
        x = _fresh(sample.input)
        y = getattr(functional, name)(x, *sample.args, **sample.kwargs)
        (factor,) = torch.autograd.grad(y, x, torch.ones_like(y))
        p = sample.kwargs.get("p", 0.5) if sample.kwargs.get("training", True) else 0.0
        scale = torch.tensor(1.0 / (1.0 - p) if p < 1.0 else 0.0, dtype=dtype)
        assert bool(((factor == 0) | (factor == scale)).all())
        assert bool((factor != 0).all()) or p > 0.0
        torch.testing.assert_close(y, x * factor)
        assert (y.dtype, y.shape, y.stride()) == (x.dtype, x.shape, torch.empty_like(x).stride())
        channels = factor.flatten(2) if name != "dropout" and x.dim() >= 4 else factor.reshape(*factor.shape, 1)
        assert bool((channels == channels[..., :1]).all())
