"""The dropout layers of normdrop.torch do what PyTorch's do, with the masks of normdrop."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import normdrop

torch = pytest.importorskip("torch")

import normdrop.torch as ours  # noqa: E402  # it needs PyTorch
from normdrop.torch import functional  # noqa: E402

NAMES = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]
SHAPES = {"Dropout": (3, 50), "Dropout1d": (4, 9, 7), "Dropout2d": (4, 9, 3, 5), "Dropout3d": (4, 9, 2, 3, 2)}
SHARED = {"Dropout": (), "Dropout1d": (2,), "Dropout2d": (2, 3), "Dropout3d": (2, 3, 4)}
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def _x(name: str, dtype: Any = None) -> Any:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(1), dtype=dtype or torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_output_and_gradient_are_those_of_the_arrays_by_the_same_stream(name: str, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = _x(name, getattr(torch, dtype)).requires_grad_()
    dy = torch.randn_like(x)

    def array(t: Any) -> Any:
        t = t.detach()
        return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if dtype == "bfloat16" else t.numpy()

    y = getattr(ours, name)(0.4, rng=normdrop.MaskStream(5))(x)
    y.backward(dy)
    stream = normdrop.MaskStream(5)
    expected, context = normdrop.functional.dropout(array(x), 0.4, shared_axes=SHARED[name], rng=stream)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(array(y), expected)
    np.testing.assert_array_equal(array(x.grad), normdrop.functional.dropout_backward(array(dy), context))
    assert stream.call == 1


@pytest.mark.parametrize("name", NAMES)
def test_kept_elements_are_those_of_pytorch_scaled_and_p_is_the_share_of_dropped_ones(name: str) -> None:
    x = torch.ones((50, 40, *SHAPES[name][2:]))
    torch.manual_seed(3)
    y = getattr(ours, name)(0.25)(x)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.05
    if name != "Dropout":
        assert bool((y.flatten(2) == y.flatten(2)[..., :1]).all())  # whole channels


@pytest.mark.parametrize("shape", [(9, 7), (9, 2, 3, 2)], ids=str)
def test_channels_of_one_example_without_a_batch_axis_are_dropped_whole(shape: tuple[int, ...]) -> None:
    layer = ours.Dropout1d(0.5) if len(shape) == 2 else ours.Dropout3d(0.5)
    y = layer(torch.ones(shape)).flatten(1)
    assert bool((y == y[:, :1]).all())
    assert len(set(y[:, 0].tolist())) == 2


def test_what_pytorch_warns_of_is_left_to_pytorch() -> None:
    x = torch.ones(4, 9, 7)
    with pytest.warns(UserWarning, match="3D input"):
        y = ours.Dropout2d(0.5)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        y = ours.Dropout2d(0.5)(x)
        torch.manual_seed(1)
        assert torch.equal(y, torch.nn.Dropout2d(0.5)(x))


@pytest.mark.parametrize("name", NAMES)
def test_repr_state_and_constructor_are_those_of_pytorch(name: str) -> None:
    layer, peer = getattr(ours, name)(0.2, True), getattr(torch.nn, name)(0.2, True)
    assert repr(layer) == repr(peer)
    assert isinstance(layer, type(peer))
    assert layer.state_dict() == peer.state_dict() == {}
    with pytest.raises(ValueError, match="between 0 and 1"):
        getattr(ours, name)(1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        functional.dropout(torch.ones(3), -0.1)


def test_manual_seed_and_fork_rng_make_masks_reproducible() -> None:
    layer, x = ours.Dropout(0.5), torch.ones(200)
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    with torch.random.fork_rng():
        assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)


def test_a_generator_of_ones_own_is_drawn_from_and_the_default_one_is_not() -> None:
    x, default = torch.ones(200), torch.random.get_rng_state()
    a = ours.Dropout(0.5, generator=torch.Generator().manual_seed(4))
    b = ours.Dropout(0.5, generator=torch.Generator().manual_seed(4))
    first = a(x)
    assert torch.equal(first, b(x))
    assert not torch.equal(first, a(x))
    assert torch.equal(torch.random.get_rng_state(), default)


def test_two_sources_of_masks_are_refused() -> None:
    both = {"generator": torch.Generator(), "rng": 3}
    with pytest.raises(ValueError, match="leave out one"):
        ours.Dropout(0.5, **both)
    with pytest.raises(ValueError, match="leave out one"):
        functional.dropout(torch.ones(3), 0.5, **both)


def test_a_source_of_masks_is_refused_where_pytorch_would_draw_them() -> None:
    stream, x = normdrop.MaskStream(1), torch.ones(3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"complex64.*manual_seed"):
        functional.dropout(x, 0.5, rng=stream)
    assert stream.call == 0
    assert functional.dropout(x, 0.5, training=False, rng=stream) is not None


def test_inference_and_p_of_zero_give_the_input_itself_and_p_of_one_zeros() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    state = torch.random.get_rng_state()
    assert ours.Dropout(0.5).eval()(x) is x
    assert ours.Dropout(0.0)(x) is x
    assert torch.equal(torch.random.get_rng_state(), state)
    y = ours.Dropout(1.0)(x)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


def test_p_may_be_changed_later() -> None:
    layer = ours.Dropout(0.5)
    layer.p = 0.9
    assert float((layer(torch.ones(10_000)) == 0).float().mean()) > 0.85


def test_a_dropped_nan_vanishes_forward_and_backward() -> None:
    x = torch.full((1000,), float("nan"), requires_grad=True)
    y = ours.Dropout(0.5, rng=0)(x)
    y.backward(torch.full((1000,), float("nan")))
    dropped = ~y.isnan()
    assert 300 < int(dropped.sum()) < 700
    assert not y[dropped].any()
    assert torch.equal(x.grad.isnan(), ~dropped)


def test_in_place_writes_to_the_input_and_gives_the_same_gradient() -> None:
    base, gradients = torch.randn(6, 7, requires_grad=True), []
    for inplace in (False, True):
        x = base * 1
        y = ours.Dropout(0.5, inplace, rng=normdrop.MaskStream(2))(x)
        assert (y is x) == inplace
        gradients.append(torch.autograd.grad(y.square().sum(), base)[0])
    assert torch.equal(*gradients)


def test_in_place_on_a_view_changes_the_base_and_its_gradient() -> None:
    leaf = torch.ones(4, 60, requires_grad=True)
    base = leaf * 1
    ours.Dropout(0.5, True, rng=0)(base[1])
    base.sum().backward()
    assert torch.equal(leaf.grad, base.detach())
    assert set(base[1].tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("view", [False, True])
def test_in_place_on_a_leaf_is_refused_and_changes_neither_values_nor_stream(view: bool) -> None:
    leaf, stream = torch.ones(20, requires_grad=True), normdrop.MaskStream(1)
    with pytest.raises(RuntimeError, match="leaf"):
        functional.dropout(leaf[:] if view else leaf, 0.5, inplace=True, rng=stream)
    assert bool((leaf == 1).all())
    assert stream.call == 0
    generator = torch.Generator()
    before = generator.get_state()
    with pytest.raises(RuntimeError, match="leaf"):
        functional.dropout(leaf, 0.5, inplace=True, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_tensor_changed_in_place_that_a_gradient_needs_is_noticed() -> None:
    w, x = torch.ones(5, requires_grad=True), torch.ones(5)
    y = w * x
    functional.dropout(x, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_inference_mode_and_no_grad_work_and_record_nothing() -> None:
    x = torch.ones(50, requires_grad=True)
    with torch.no_grad():
        assert not ours.Dropout(0.5)(x).requires_grad
    with torch.inference_mode():
        z = torch.ones(50)
        assert ours.Dropout(0.5)(z).is_inference()
        ours.Dropout(0.5, True)(z)
        assert set(z.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("kind", ["channels last", "transposed", "sliced", "expanded", "negative"])
def test_mask_and_memory_format_are_those_of_pytorch_in_any_strides(kind: str) -> None:
    x = torch.randn(2, 6, 4, 5)
    x = {
        "channels last": lambda: x.to(memory_format=torch.channels_last),
        "transposed": lambda: x.permute(3, 0, 2, 1),
        "sliced": lambda: x[:, ::2, :, 1:],
        "expanded": lambda: x[:, :1].expand(2, 6, 4, 5),
        "negative": lambda: torch._neg_view(x),
    }[kind]()
    y = ours.Dropout(0.5, rng=normdrop.MaskStream(3))(x)
    expected, _ = normdrop.functional.dropout(x.resolve_neg().contiguous().numpy(), 0.5, rng=normdrop.MaskStream(3))
    np.testing.assert_array_equal(y.numpy(), expected)
    assert y.stride() == torch.empty_like(x).stride()


def test_results_share_memory_with_no_input() -> None:
    x = torch.ones(1 << 19)
    y = ours.Dropout(0.5)(x)
    assert bool((x == 1).all())
    assert y.data_ptr() != x.data_ptr()
    kept = y.clone()
    for _ in range(3):
        ours.Dropout(0.5)(x)
    assert torch.equal(y, kept)


def test_copies_and_pickles_draw_the_same_masks() -> None:
    x = torch.ones(100)
    for layer in (ours.Dropout(0.5, rng=7), ours.Dropout(0.5, generator=torch.Generator().manual_seed(1))):
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)
        y = layer(x)
        assert all(torch.equal(twin(x), y) for twin in twins)
        assert not torch.equal(layer(x), y)


@pytest.mark.parametrize("make", [lambda: torch.ones(3, 4).to_sparse(), lambda: torch.empty(3, 4, device="meta")])
def test_other_layouts_and_devices_go_to_pytorch(make: Any) -> None:
    try:
        expected = torch.nn.functional.dropout(make(), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        with pytest.raises(type(error)):
            functional.dropout(make(), 0.5)
    else:
        y = functional.dropout(make(), 0.5)
        assert (y.layout, y.device, y.shape) == (expected.layout, expected.device, expected.shape)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_go_to_pytorch() -> None:
    parts = [torch.ones(30), torch.ones(20)]
    y = functional.dropout(torch.nested.nested_tensor(parts), 0.5)
    assert y.is_nested
    assert [len(part) for part in y.unbind()] == [30, 20]
    assert set(torch.cat(y.unbind()).tolist()) == {0.0, 2.0}


def test_tensors_of_subclasses_go_to_pytorch() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        y = functional.dropout(mode.from_tensor(torch.ones(3, 4)), 0.5)
    assert type(y).__name__ == "FakeTensor"
    assert y.shape == (3, 4)


def test_an_empty_tensor_stays_and_takes_no_call() -> None:
    stream = normdrop.MaskStream(1)
    assert functional.dropout(torch.ones(0, 3), 0.5, rng=stream).shape == (0, 3)
    assert stream.call == 0


def test_a_p_that_varies_is_refused_with_a_sentence_that_says_where_it_goes() -> None:
    x = _x("Dropout2d")
    calls = (
        ours.Dropout,
        ours.Dropout2d,
        lambda p: ours.FusedBatchNorm(9, p=p),
        lambda p: functional.dropout(x, p),
        lambda p: functional.dropout2d(x, p, training=False),
        lambda p: functional.batch_norm_act(x, None, None, p=p),
    )
    for call in calls:
        for p in (np.full(9, 0.5), lambda step: 0.5, torch.full((9,), 0.5)):
            with pytest.raises(TypeError, match=r"p must be one number here.* Arrays are for functional.dropout"):
                call(p)
