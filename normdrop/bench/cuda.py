"""The command ``python -m normdrop bench --device cuda``: the passes beside a copy on the device, and PyTorch."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import normdrop
from normdrop import _device, functional
from normdrop.bench import shapes
from normdrop.bench.protocol import Call

COPY, OURS, PEER = "copy", "normdrop", "PyTorch"
PASSES = ("dropout", "dropout backward", "batch norm", "batch norm backward")
_ALONE, _WITH_PEER = 5, 10  # arrays of one shape at a time
LEGEND = (
    "us: device time of a call, the median of the rounds. host us: what a call costs its Python thread. copy: time of "
    "copying as many bytes as the pass must read and write at least, over the time of the pass; 1 is the speed of "
    "memory. x PyTorch: PyTorch's time over ours; more than 1 is faster than PyTorch. Left out: shapes of which the "
    "GPU's free memory does not hold 10 arrays, without PyTorch 5."
)


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    Attributes
    ----------
    sizes : tuple of int
        Elements of the arrays for dropout.
    shapes : tuple of tuple of int
        Shapes (N, C, H, W) for batch normalization.
    rounds, calls : int
        Rounds, and calls in each of them.
    """

    sizes: tuple[int, ...]
    shapes: tuple[shapes.Shape, ...]
    rounds: int
    calls: int


FULL = Amount(shapes.GPU_SIZES, shapes.GPU_IMAGES, rounds=15, calls=10)
QUICK = Amount(shapes.GPU_QUICK_SIZES, shapes.GPU_QUICK_IMAGES, rounds=5, calls=5)


@dataclass(frozen=True)
class Row:
    """A pass on an array.

    Attributes
    ----------
    name, layout, dtype : str
        The pass, channels first or last, and the dtype.
    shape : tuple of int
        Shape of the input.
    microseconds, host_microseconds : dict of str to float
        Device time and host time of a call of each side.
    arrays : int
        Arrays that the pass must read or write.
    itemsize : int
        Bytes of an element.
    """

    name: str
    layout: str
    dtype: str
    shape: tuple[int, ...]
    microseconds: Mapping[str, float]
    host_microseconds: Mapping[str, float]
    arrays: int
    itemsize: int

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes that the pass must move, per time."""
        return self.arrays * self.itemsize * float(np.prod(self.shape)) / self.microseconds[OURS] / 1e3

    @property
    def of_copy(self) -> float:
        """Fraction of the speed of a copy."""
        return self.microseconds[COPY] * self.arrays / 2 / self.microseconds[OURS]


def chosen(only: str) -> list[str]:
    """Return the passes that have these words in their names, which may be joined by underscores."""
    return [name for name in PASSES if only.lower().replace("_", " ") in name]


def run(amount: Amount, output: Path, *, only: str = "", as_json: bool = False) -> None:
    """Measure on the GPU that Numba uses now, show it and save it.

    Parameters
    ----------
    amount : Amount
        What to measure.
    output : Path
        An existing folder for ``cuda.json`` and ``cuda.md``.
    only : str, default ""
        Part of the names of the passes to measure.
    as_json : bool, default False
        Whether to print the numbers as JSON instead of the table.
    """
    from normdrop._cuda import launch

    rows = list(_rows(amount, only))
    machine = {"device": launch.describe(), "normdrop": normdrop.__version__}
    if torch := _torch():
        machine[PEER] = str(torch.__version__)
    collected = json.dumps({"machine": machine, "rows": [_numbers(row) for row in rows]}, indent=1)
    table = "\n".join([", ".join(f"{key} {value}" for key, value in machine.items()), "", *_table(rows), "", LEGEND])
    (output / "cuda.json").write_text(collected + "\n", encoding="utf-8")
    (output / "cuda.md").write_text(table + "\n", encoding="utf-8")
    print(collected if as_json else table)


def _numbers(row: Row) -> dict[str, Any]:
    return {**vars(row), "gigabytes_per_second": row.gigabytes_per_second, "of_copy": row.of_copy}


def _table(rows: list[Row]) -> Iterator[str]:
    yield "| pass | shape | layout | dtype | us | GB/s | copy | PyTorch us | x PyTorch | host us | PyTorch host us |"
    yield "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        peer, ratio, peer_host = "", "", ""
        if PEER in row.microseconds:
            peer, peer_host = f"{row.microseconds[PEER]:.1f}", f"{row.host_microseconds[PEER]:.1f}"
            ratio = f"{row.microseconds[PEER] / row.microseconds[OURS]:.2f}"
        yield (
            f"| {row.name} | {' × '.join(map(str, row.shape))} | {row.layout} | {row.dtype} | "
            f"{row.microseconds[OURS]:.1f} | {row.gigabytes_per_second:.0f} | {row.of_copy:.2f} | {peer} | {ratio} | "
            f"{row.host_microseconds[OURS]:.1f} | {peer_host} |"
        )


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def _dtypes() -> Iterator[np.dtype[Any]]:
    yield np.dtype(np.float32)
    try:
        import ml_dtypes
    except ImportError:
        yield np.dtype(np.float16)
    else:
        yield np.dtype(ml_dtypes.bfloat16)


def _rows(amount: Amount, only: str) -> Iterator[Row]:
    names = chosen(only)
    for dtype in _dtypes():
        for size in amount.sizes if {*names} & {*PASSES[:2]} else []:
            if _fits((size,), dtype):
                yield from _measured(amount, _Arrays((size,), dtype), "", names, _dropouts)
        for shape in amount.shapes if {*names} & {*PASSES[2:]} else []:
            if _fits(shape, dtype):
                yield from _measured(amount, _Arrays(shape, dtype), "first", names, _norms)
                yield from _measured(amount, _Arrays(shape, dtype, channels_last=True), "last", names, _norms)


def _fits(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    from normdrop._cuda.launch import cuda

    if library := _torch():
        library.cuda.empty_cache()  # it keeps what it has freed
    free = cuda.current_context().get_memory_info()[0]  # endless in the simulator
    return bool((_WITH_PEER if library else _ALONE) * dtype.itemsize * math.prod(shape) < free)


class _Arrays:
    """Input, gradient and output on the GPU, and an input of PyTorch's; channels last is (N * H * W, C) for us."""

    def __init__(self, image: tuple[int, ...], dtype: np.dtype[Any], channels_last: bool = False) -> None:
        shape = (image[0] * image[2] * image[3], image[1]) if channels_last else image
        rng = np.random.default_rng(0)
        part = rng.standard_normal(min(int(np.prod(shape)), 1 << 20), np.float32).astype(dtype)
        values: npt.NDArray[Any] = np.resize(part, shape)
        self.shape, self.dtype = shape, dtype
        self.x, self.dy, self.out = (_device.to_device(values) for _ in range(3))
        self.n_channels = shape[1] if len(shape) > 1 else 1
        self.library = _torch()
        if self.library:
            name = getattr(self.library, dtype.name)
            flat = self.library.from_numpy(part.astype(np.float32)).cuda().to(name)
            count = int(np.prod(shape))
            self.tensor = flat.repeat(-(-count // flat.numel()))[:count].reshape(image)
            if channels_last:
                self.tensor = self.tensor.contiguous(memory_format=self.library.channels_last)


Sides = Iterator[tuple[str, int, Mapping[str, Call]]]


def _dropouts(arrays: _Arrays) -> Sides:
    x, dy, out = arrays.x, arrays.dy, arrays.out
    layer = normdrop.Dropout(0.5, rng=0)
    context = functional.dropout(x, 0.5, rng=0, out=out)[1]
    sides: dict[str, Call] = {OURS: lambda: layer(x, out=out)}
    if torch := arrays.library:
        drop = torch.nn.Dropout(0.5)
        sides[PEER] = lambda: drop(arrays.tensor)
    yield "dropout", 2, sides
    yield "dropout backward", 2, {OURS: lambda: functional.dropout_backward(dy, context, out=out)}


def _norms(arrays: _Arrays) -> Sides:
    x, dy, out = arrays.x, arrays.dy, arrays.out
    layer = normdrop.BatchNorm(arrays.n_channels).to_device()
    context = functional.batch_norm(x, layer.gamma, layer.beta)[1]
    forward: dict[str, Call] = {OURS: lambda: layer(x, out=out)}
    backward: dict[str, Call] = {OURS: lambda: functional.batch_norm_backward(dy, context, out=out)}
    if torch := arrays.library:
        peer = torch.nn.BatchNorm2d(arrays.n_channels).cuda()
        tensor = arrays.tensor.detach().requires_grad_()
        result, gradient = peer(tensor), torch.ones_like(arrays.tensor)  # of the same memory format
        forward[PEER] = lambda: peer(arrays.tensor)
        backward[PEER] = lambda: torch.autograd.grad(result, (tensor, *peer.parameters()), gradient, retain_graph=True)
    # Statistics and normalization each read x, and both halves of backward read dy and x.
    yield "batch norm", 3, forward
    yield "batch norm backward", 5, backward


def _measured(
    amount: Amount, arrays: _Arrays, layout: str, names: list[str], passes: Callable[[_Arrays], Sides]
) -> Iterator[Row]:
    from normdrop._cuda import launch

    for name, n_arrays, sides in passes(arrays):
        if name not in names:
            continue
        calls = {COPY: launch.copying(_device.view(arrays.out), _device.view(arrays.x)), **sides}
        device: dict[str, list[float]] = {side: [] for side in calls}
        host: dict[str, list[float]] = {side: [] for side in calls}
        for call in calls.values():
            call()
        for _ in range(amount.rounds):
            for side, call in calls.items():
                on_device, on_host = _time(call, amount.calls)
                device[side].append(on_device)
                host[side].append(on_host)
        medians = [{side: float(np.median(v)) * 1e6 for side, v in times.items()} for times in (device, host)]
        yield Row(
            name, layout, arrays.dtype.name, arrays.shape, medians[0], medians[1], n_arrays, arrays.dtype.itemsize
        )


def _time(call: Call, n_calls: int) -> tuple[float, float]:
    """Seconds per call on the device, between two of its events, and on the host; all run on the default stream."""
    from normdrop._cuda import launch

    with launch.timer() as elapsed:
        begin = time.perf_counter()
        for _ in range(n_calls):
            call()
        host = time.perf_counter() - begin
    return max(elapsed[0] / n_calls, 1e-9), host / n_calls
