"""The command ``python -m normdrop bench --device cuda``: the passes beside a copy on the device, and PyTorch."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import normdrop
from normdrop import _device
from normdrop.bench import shapes, sides
from normdrop.bench.protocol import Call, Times, orders

COPY, OURS, PEER = "copy", sides.OURS[0], "PyTorch"
# How many arrays each must read and write at least: statistics and normalization each read x, and both halves of
# backward read dy and x.
PASSES = {"dropout": 2, "dropout backward": 2, "batch norm": 3, "batch norm backward": 5}
_ALONE, _WITH_PEER = 5, 10  # arrays of one shape at a time
LEGEND = (
    "us: device time of a call, the median of the rounds. host us: what a call costs its Python thread. copy: time of "
    "copying as many bytes as the pass must read and write at least, over the time of the pass; 1 is the speed of "
    "memory. x PyTorch: PyTorch's time over ours; more than 1 is faster than PyTorch. Ratios are medians of the "
    "ratios within a round. Left out: shapes of which the GPU's free memory does not hold 10 arrays, without PyTorch 5."
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
    itemsize : int
        Bytes of an element.
    device, host : Times
        Times of each side on the device, and of its Python thread.
    """

    name: str
    layout: str
    dtype: str
    shape: shapes.Shape
    itemsize: int
    device: Times
    host: Times

    def numbers(self) -> dict[str, Any]:
        """Return what the JSON file has of it."""
        medians = [{side: times.microseconds(side) for side in times.seconds} for times in (self.device, self.host)]
        arrays = PASSES[self.name]
        return {
            "name": self.name,
            "layout": self.layout,
            "dtype": self.dtype,
            "shape": self.shape,
            "microseconds": medians[0],
            "host_microseconds": medians[1],
            "arrays": arrays,
            "itemsize": self.itemsize,
            "gigabytes_per_second": arrays * self.itemsize * math.prod(self.shape) / medians[0][OURS] / 1e3,
            "of_copy": self.device.ratio(COPY, OURS).middle * arrays / 2,
        }


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
    collected = json.dumps({"machine": machine, "rows": [row.numbers() for row in rows]}, indent=1)
    table = "\n".join([", ".join(f"{key} {value}" for key, value in machine.items()), "", *_table(rows), "", LEGEND])
    (output / "cuda.json").write_text(collected + "\n", encoding="utf-8")
    (output / "cuda.md").write_text(table + "\n", encoding="utf-8")
    print(collected if as_json else table)


def _table(rows: list[Row]) -> Iterator[str]:
    yield "| pass | shape | layout | dtype | us | GB/s | copy | PyTorch us | x PyTorch | host us | PyTorch host us |"
    yield "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        numbers, peer, ratio, peer_host = row.numbers(), "", "", ""
        if PEER in row.device.seconds:
            peer, peer_host = (f"{times.microseconds(PEER):.1f}" for times in (row.device, row.host))
            ratio = f"{row.device.ratio(PEER, OURS).middle:.2f}"
        yield (
            f"| {row.name} | {' × '.join(map(str, row.shape))} | {row.layout} | {row.dtype} | "
            f"{row.device.microseconds(OURS):.1f} | {numbers['gigabytes_per_second']:.0f} | {numbers['of_copy']:.2f} | "
            f"{peer} | {ratio} | {row.host.microseconds(OURS):.1f} | {peer_host} |"
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
    dropouts, norms = ([name for name in chosen(only) if name.startswith(kind)] for kind in ("dropout", "batch norm"))
    for dtype in _dtypes():
        for size in amount.sizes if dropouts else ():
            if _fits((size,), dtype):
                yield from _measured(amount, _Arrays((size,), dtype), "", dropouts)
        for shape in amount.shapes if norms else ():
            if _fits(shape, dtype):
                yield from _measured(amount, _Arrays(shape, dtype), "first", norms)
                yield from _measured(amount, _Arrays(shape, dtype, channels_last=True), "last", norms)


def _fits(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    from normdrop._cuda.launch import cuda

    if library := _torch():
        library.cuda.empty_cache()  # it keeps what it has freed
    free = cuda.current_context().get_memory_info()[0]  # endless in the simulator
    return bool((_WITH_PEER if library else _ALONE) * dtype.itemsize * math.prod(shape) < free)


class _Arrays:
    """What a `Batch` has, on the GPU, and an input of PyTorch's; channels last is (N * H * W, C) for us."""

    def __init__(self, image: shapes.Shape, dtype: np.dtype[Any], channels_last: bool = False) -> None:
        shape = (image[0] * image[2] * image[3], image[1]) if channels_last else image
        rng = np.random.default_rng(0)
        part = rng.standard_normal(min(math.prod(shape), 1 << 20), np.float32).astype(dtype)
        values: npt.NDArray[Any] = np.resize(part, shape)
        self.shape, self.dtype = shape, dtype
        self.x, self.dy, self.out = (_device.to_device(values) for _ in range(3))
        n_channels = shape[1] if len(shape) > 1 else 1
        self.gamma = self.var = np.ones(n_channels, np.float32)
        self.beta = self.mean = np.zeros(n_channels, np.float32)
        self.library = _torch()
        if self.library:
            name = getattr(self.library, dtype.name)
            flat = self.library.from_numpy(part.astype(np.float32)).cuda().to(name)
            count = math.prod(shape)
            self.tensor = flat.repeat(-(-count // flat.numel()))[:count].reshape(image)
            if channels_last:
                self.tensor = self.tensor.contiguous(memory_format=self.library.channels_last)

    def buffer(self) -> Any:
        return self.out


class _Normdrop(sides.Normdrop):
    def _layer(self, kind: str, batch: Any, *arguments: float) -> Any:
        return super()._layer(kind, batch, *arguments).to_device()


def _sides(arrays: Any, name: str) -> Iterator[tuple[str, Call]]:
    from normdrop._cuda import launch

    yield COPY, launch.copying(_device.view(arrays.out), _device.view(arrays.x))
    arguments = (0.5,) if name.startswith("dropout") else ()
    yield OURS, getattr(_Normdrop(OURS), name.replace(" ", "_"))(arrays, *arguments)
    torch = arrays.library
    if torch and name == "dropout":
        yield PEER, partial(torch.nn.Dropout(*arguments), arrays.tensor)
    elif torch and name.startswith("batch norm"):
        from normdrop.bench.peers.torch_eager import recorded

        layer = torch.nn.BatchNorm2d(len(arrays.gamma)).cuda()
        calls = recorded(layer, arrays.tensor, torch.ones_like(arrays.tensor))  # of the same memory format
        yield PEER, calls["backward" if name.endswith("backward") else "forward"]


def _measured(amount: Amount, arrays: _Arrays, layout: str, names: list[str]) -> Iterator[Row]:
    for name in names:
        calls = dict(_sides(arrays, name))
        device, host = ({side: np.empty(amount.rounds) for side in calls} for _ in range(2))
        for call in calls.values():
            call()
        for i, order in enumerate(orders(len(calls), amount.rounds)):
            for j in order:
                side = list(calls)[j]
                device[side][i], host[side][i] = _time(calls[side], amount.calls)
        yield Row(name, layout, arrays.dtype.name, arrays.shape, arrays.dtype.itemsize, Times(device), Times(host))


def _time(call: Call, n_calls: int) -> tuple[float, float]:
    """Seconds per call on the device, between two of its events, and on the host; all run on the default stream."""
    from normdrop._cuda import launch

    with launch.timer() as elapsed:
        begin = time.perf_counter()
        for _ in range(n_calls):
            call()
        host = time.perf_counter() - begin
    return max(elapsed[0] / n_calls, 1e-9), host / n_calls
