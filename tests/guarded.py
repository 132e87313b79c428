"""Every launcher on arrays between pages that may not be touched; a program, because a touch ends the process.

Run as ``python guarded.py float32,float64 small,large``. It prints each case before it runs it. Whatever a launcher is
given lies once directly below such a page and once directly above one, workspaces included. What remains of the pages
beside an array is filled with bytes that are a NaN in every dtype: it must be so afterwards, and what a launcher gives
must be the bits that it gives for ordinary arrays.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from normdrop import _cpu, _exact, _positions, functional
from normdrop._connections import Connections
from normdrop._steps import Steps

PAGE = mmap.PAGESIZE
NAN = 0xFF
LAW = ((1, 2), 3, 1 << 31)  # key, call, threshold
KEY, CALL, THRESHOLD = LAW
LARGE = 17 << 20  # bytes; more than normdrop._cpu.lanes.streaming calls large

_libc = ctypes.CDLL(None, use_errno=True)


class Place:
    """Whole pages between two that may not be touched, for one array at one end of them."""

    def __init__(self, n_bytes: int, at_end: bool, alignment: int) -> None:
        n_pages = max(1, -(-n_bytes // PAGE))
        mapped = mmap.mmap(-1, (n_pages + 2) * PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        for guard in (first, first + (n_pages + 1) * PAGE):
            if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self.memory = np.frombuffer(mapped, np.uint8, n_pages * PAGE, PAGE)
        self.memory.fill(NAN)
        self.start = (n_pages * PAGE - n_bytes) // alignment * alignment if at_end else 0
        self.stop = self.start + n_bytes

    def untouched_beside(self) -> bool:
        return bool((self.memory[: self.start] == NAN).all() and (self.memory[self.stop :] == NAN).all())


class Places:
    """The places of one call, all at the same end."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.made: list[Place] = []

    def empty(self, shape: tuple[int, ...], dtype: Any, alignment: int = 0) -> Any:
        dtype = np.dtype(dtype)
        place = Place(math.prod(shape) * dtype.itemsize, self.at_end, alignment or dtype.itemsize)
        self.made.append(place)
        return place.memory[place.start : place.stop].view(dtype).reshape(shape)

    def copy(self, array: Any) -> Any:
        copy = self.empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def workspace(self, shape: tuple[int, ...]) -> Any:
        return self.empty(shape, np.float64, 64)

    def check(self) -> None:
        assert all(place.untouched_beside() for place in self.made), "written beside an array"


_noise = np.random.default_rng(0).normal(3.0, 2.0, 1 << 16)
_modules = [module for name, module in sys.modules.items() if name.startswith("normdrop._cpu.")]


def _values(shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    return np.resize(np.roll(_noise, seed), shape).astype(dtype)


def _unset(array: Any) -> Any:
    array.view(np.uint8).fill(NAN)
    return array


# Fused launchers, with all arrays as arguments of their own.
FUSED: dict[str, Any] = {
    "batch_norm_act": lambda y, x, r, rows, gamma, beta, mask, steps: _cpu.batch_norm_act(
        y, (x, r), rows, (gamma, beta), 1e-5, steps._replace(mask=mask)
    ),
    "normalize_act": lambda y, x, r, rows, mask, steps: _cpu.normalize_act(y, (x, r), rows, steps._replace(mask=mask)),
    "act_gradient": lambda du, dy, x, r, rows, mask, steps: _cpu.act_gradient(
        du, dy, (x, r), rows, steps._replace(mask=mask)
    ),
    "batch_norm_act_backward": lambda dx, du, dy, x, r, sums, rows, gamma, beta, mask, steps: (
        _cpu.batch_norm_act_backward((dx, du), (dy, x, r), sums, rows, (gamma, beta), steps._replace(mask=mask))
    ),
}


def _counting(launcher: Any) -> Any:
    """The launcher, with all arrays as arguments of their own."""

    def launch(mask: Any, weights: Any, where: Any, **given: Any) -> None:
        launcher(**given, positions=where._replace(mask=mask, weights=weights))

    return launch


for _name in ("masked_moments", "masked_normalize", "masked_batch_norm", "masked_batch_norm_backward"):
    FUSED[_name] = _counting(getattr(_cpu, _name))


def check(name: str, arguments: dict[str, Any], outputs: tuple[str, ...], in_place: tuple[str, str] | None) -> None:
    """Run a launcher on ordinary arrays, then on guarded ones at both ends, then in place."""
    launcher = FUSED[name] if name in FUSED else getattr(_cpu, name)

    def run(places: Places | None, alias: bool) -> dict[str, bytes]:
        given: dict[str, Any] = {}
        for key, value in arguments.items():
            copied = isinstance(value, np.ndarray)
            given[key] = (value.copy() if places is None else places.copy(value)) if copied else value
        if alias and in_place:
            given[in_place[0]] = given[in_place[1]]
        launcher(**given)
        if places is not None:
            places.check()
        return {key: given[key].tobytes() for key in outputs}

    expected = run(None, False)
    for at_end in (True, False):
        for alias in (False, True) if in_place else (False,):
            places = Places(at_end)
            ordinary = [(module, module.scratch) for module in _modules if hasattr(module, "scratch")]
            for module, _ in ordinary:
                module.scratch = places.workspace
            try:
                assert run(places, alias) == expected, f"other bits, at_end={at_end}, in place={alias}"
            finally:
                for module, scratch in ordinary:
                    module.scratch = scratch


def flat(n: int, dtype: Any) -> None:
    """Launchers on flat arrays of `n` elements."""
    x = _values((n,), dtype, 1)
    law = {"key": KEY, "call": CALL, "threshold": THRESHOLD}
    check("dropout", {"y": _unset(np.empty_like(x)), "x": x, "scale": 2.0} | law, ("y",), ("y", "x"))
    for first in (0, 5, 127, 130):
        check("keep_mask", {"mask": _unset(np.empty(n, np.bool_)), "first": first} | law, ("mask",), None)
    masks, ids = _unset(np.empty((3, n), np.bool_)), np.arange(3)
    check("keep_samples", {"mask": masks, "ids": ids} | law, ("mask",), None)
    given = {"masks": masks.T.copy(), "weights": _unset(np.empty(n)), "p": np.full(3, 0.25), "first": 0}
    check("enumerate_masks", given, ("masks", "weights"), None)


def transposed(shape: tuple[int, ...], dtype: Any) -> None:
    """Dropout of (A, P, Q)."""
    x = _values(shape, dtype, 2)
    given = {"y": _unset(np.empty_like(x)), "x": x, "key": KEY, "call": CALL, "threshold": THRESHOLD, "scale": 2.0}
    check("dropout_transposed", given, ("y",), ("y", "x"))


def connected(shape: tuple[int, int, int], dtype: Any) -> None:
    """DropConnect with a mask for each sample: (N, O, I)."""
    n, n_out, n_in = shape
    x, weight, dy = (_values(s, dtype, seed) for seed, s in enumerate([(n, n_in), (n_out, n_in), (n, n_out)]))
    y, dx, dweight = (_unset(np.empty_like(values)) for values in (dy, x, weight))
    law = {"connections": Connections(*LAW, 2.0, False)}
    check("drop_connect", {"y": y, "x": x, "weight": weight, "bias": _values((n_out,), float, 3)} | law, ("y",), None)
    check("drop_connect_input_gradient", {"dx": dx, "dy": dy, "weight": weight} | law, ("dx",), None)
    check("drop_connect_weight_gradient", {"dweight": dweight, "dy": dy, "x": x} | law, ("dweight",), None)


def blocked(case: tuple[tuple[int, ...], tuple[int, int, int]], dtype: Any) -> None:
    """Blocks of a map (A, n1, n2, n3, B), few and many."""
    shape, blocks = case
    x = _values(shape, dtype, 4)
    y, mask, n_kept = _unset(np.empty_like(x)), _unset(np.empty(shape, np.bool_)), np.zeros(1, np.int64)
    for threshold in (2**22, 2**29):
        law = {"n_kept": n_kept, "blocks": blocks, "key": KEY, "call": CALL, "threshold": threshold}
        check("keep_blocks", {"mask": mask} | law, ("mask", "n_kept"), None)
        check("drop_blocks", {"y": y, "x": x, "scale": None} | law, ("y", "n_kept"), ("y", "x"))


def masked(shape: tuple[int, ...], dtype: Any) -> None:
    """A mask (A, B) on (A, S, B)."""
    x = _values(shape, dtype, 3)
    mask = _values((shape[0], shape[2]), np.float64, 4) > 3.0
    given = {"y": _unset(np.empty_like(x)), "x": x, "mask": mask, "scale": 2.0}
    check("apply_mask", given, ("y",), ("y", "x"))


def batch(shape: tuple[int, ...], dtype: Any) -> None:
    """Launchers of batch normalization on (outer, C, inner)."""
    n = shape[1]
    x, dy = _values(shape, dtype, 5), _values(shape, dtype, 6)
    y, rows = _unset(np.empty_like(x)), _unset(np.empty((3, n)))
    parameters = np.float64 if x.itemsize == 8 else np.float32
    gamma, beta = np.abs(_values((2, n), parameters, 7))
    given = {"y": y, "x": x, "statistics": rows, "gamma": gamma, "beta": beta, "eps": 1e-5}
    check("batch_norm", given, ("y", "statistics"), ("y", "x"))
    check("moments", {"statistics": rows, "x": x}, ("statistics",), None)
    sums = _unset(np.empty((n, _exact.grid_of(x.dtype).n_columns), np.int64))
    check("exact_sums", {"sums": sums, "x": x}, ("sums",), None)
    statistics = np.stack([np.full(n, 3.0), np.full(n, 4.0), np.full(n, 0.5)])
    check("normalize", {"y": y, "x": x, "vectors": statistics}, ("y",), ("y", "x"))
    sums = _unset(np.empty((2, n)))
    check("parameter_gradients", {"sums": sums, "dy": dy, "x": x, "statistics": statistics}, ("sums",), None)
    given = {"dx": y, "dy": dy, "x": x, "sums": sums, "statistics": statistics, "gamma": gamma}
    check("batch_norm_backward", given, ("dx", "sums"), ("dx", "dy"))
    vectors = np.stack([np.full(n, value) for value in (3.0, 0.5, 0.1, 2.0)])
    check("input_gradient", {"dx": y, "dy": dy, "x": x, "vectors": vectors}, ("dx",), ("dx", "dy"))


def fused(shape: tuple[int, ...], dtype: Any) -> None:
    """Fused launchers, with a mask that is drawn and with one that is given."""
    n = shape[1]
    x, r, dy = (_values(shape, dtype, seed) for seed in (5, 6, 7))
    y, du = (_unset(np.empty_like(x)) for _ in range(2))
    statistics, sums = (_unset(np.empty((rows, n))) for rows in (3, 2))
    parameters = np.float64 if x.itemsize == 8 else np.float32
    affine = dict(zip(("gamma", "beta"), np.abs(_values((2, n), parameters, 7)), strict=True))
    rows = np.stack([np.full(n, 3.0), np.full(n, 0.5), np.full(n, 0.25)])
    drawn = {"mask": None, "steps": Steps("relu", 0.0, THRESHOLD, 2.0, KEY, CALL)}
    mask = _values((shape[0], shape[2]), np.float64, 4) > 3.0
    given = {"mask": mask, "steps": Steps("relu", 0.0, 0, 2.0, fold=(n, shape[2]))}
    for law in (drawn, given):
        check("batch_norm_act", {"y": y, "x": x, "r": r, "rows": statistics} | affine | law, ("y", "rows"), ("y", "x"))
        check("normalize_act", {"y": y, "x": x, "r": r, "rows": rows} | law, ("y",), ("y", "r"))
        check("act_gradient", {"du": du, "dy": dy, "x": x, "r": r, "rows": rows} | law, ("du",), ("du", "dy"))
        arrays = {"dx": y, "du": du, "dy": dy, "x": x, "r": r, "sums": sums, "rows": rows}
        check("batch_norm_act_backward", arrays | affine | law, ("dx", "du", "sums"), ("du", "dy"))


def counted(shape: tuple[int, ...], dtype: Any) -> None:
    """Launchers of batch normalization in which some positions count, once or by weights."""
    n, places = shape[1], shape[0] * shape[2]
    x, dy = _values(shape, dtype, 5), _values(shape, dtype, 6)
    y, statistics, sums = _unset(np.empty_like(x)), _unset(np.empty((3, n))), _unset(np.empty((2, n)))
    gamma, beta = np.abs(_values((2, n), np.float64 if x.itemsize == 8 else np.float32, 7))
    rows = np.stack([np.full(n, 3.0), np.full(n, 4.0), np.full(n, 0.5)])
    mask = _values((places,), np.float64, 4) > 3.0
    mask[-1] = True
    for weights in (None, np.abs(_values((places,), np.float32, 8))):
        for others in ("zero", "keep"):
            where = _positions.of(mask, weights, others, like=x)
            how = {"mask": where.mask, "weights": where.weights, "where": where}
            check("masked_moments", {"statistics": statistics, "x": x} | how, ("statistics",), None)
            check("masked_normalize", {"y": y, "x": x, "vectors": rows} | how, ("y",), ("y", "x"))
            given = {"y": y, "x": x, "statistics": statistics, "gamma": gamma, "beta": beta, "eps": 1e-5}
            check("masked_batch_norm", given | how, ("y", "statistics"), ("y", "x"))
            given = {"dx": y, "dy": dy, "x": x, "sums": sums, "statistics": rows, "gamma": gamma}
            check("masked_batch_norm_backward", given | how, ("dx", "sums"), ("dx", "dy"))


def channels(n: int, dtype: Any) -> None:
    """Launchers on numbers per channel."""
    statistics = np.abs(_values((3, n), np.float64, 8))
    if dtype.itemsize > 2:
        given = dict(zip(("gamma", "beta"), np.abs(_values((2, n), dtype, 7)), strict=True))
        given |= dict(zip(("mean", "var"), np.abs(_values((2, n), np.float64, 8)), strict=True))
        check("inference_vectors", {"vectors": _unset(np.empty((4, n))), **given, "eps": 1e-5}, ("vectors",), None)
        mean, var = np.abs(_values((2, n), np.float64, 9))
        given = {"mean": mean, "var": var, "statistics": statistics, "momentum": 0.9, "correction": 1.1}
        check("update_running", given, ("mean", "var"), None)


def strided(shape: tuple[int, int, int], dtype: Any) -> None:
    """Whole passes on views of guarded arrays that are not dense or not aligned."""
    x = _values(shape, dtype, 10)

    def passes(x: Any, out: Any) -> list[bytes]:
        y, context = functional.batch_norm(x, out=out)
        results = [y.tobytes(), *(part.tobytes() for part in functional.batch_norm_backward(x, context))]
        y, masked = functional.dropout(x, 0.5, rng=1, out=out)
        return [*results, y.tobytes(), functional.dropout_backward(x, masked, out=out).tobytes()]

    for at_end in (True, False):
        places = Places(at_end)
        backward, forward = places.copy(x[::-1]), places.copy(x)
        spread = places.empty((shape[0], shape[1], 2 * shape[2] - 1), dtype)[:, :, ::2]
        spread[...] = x
        fortran = places.copy(x.T).T
        odd = places.empty((x.nbytes + 1,), np.uint8)[1:].view(dtype).reshape(shape)
        odd[...] = x
        for view in (forward, backward[::-1], spread, fortran, odd):
            out = places.empty(shape, dtype)
            assert passes(view, out) == passes(view.copy(order="K"), np.empty_like(x))  # sums go in order of memory
            assert view.tobytes() == x.tobytes()
        places.check()


def forged(n: int, dtype: Any) -> None:
    """Contexts that say more than their arrays hold."""
    for at_end in (True, False):
        places = Places(at_end)
        x, dy = places.copy(_values((3, n), dtype, 11)), places.copy(_values((3, n), dtype, 12))
        rows, short = places.copy(np.ones((3, 3))), places.copy(np.ones((3, 1)))
        one, gamma = places.copy(np.ones(1)), places.copy(np.ones(1, dtype if dtype.itemsize > 2 else np.float32))
        trained = functional.batch_norm(x, channel_axis=0)[1]._replace(statistics=rows)
        inferred = functional.batch_norm_inference(x, rows[0], rows[1], channel_axis=0, keep_x=True)[1]
        for change in ({"channel_axis": 1}, {"statistics": short}, {"statistics": rows[:2]}, {"gamma": gamma}):
            _refuses(functional.batch_norm_backward, dy, trained._replace(**change))
        for change in ({"channel_axis": 1}, {"statistics": short}, {"scale": one}):
            _refuses(functional.batch_norm_inference_backward, dy, inferred._replace(**change))
        _refuses(functional.update_running, one, rows[1], trained)
        x.shape = (1, 3 * n)
        _refuses(functional.batch_norm_backward, dy.reshape(x.shape), trained)
        places.check()


def _refuses(function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except ValueError:
        return
    raise AssertionError(f"{function.__name__} took {arguments}")


Case = tuple[Any, Any]
TAILS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 29, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 95, 97, 127, 129]
LENGTHS = [*TAILS, 255, 257, 511, 513, 527, 2047, 2049, 2064, 2079, 4095, 4097]  # long runs start at a cache line


def small(_dtype: Any) -> Iterator[Case]:
    """Sizes around the widths of vectors, runs and blocks, below what threads are worth."""
    for n in [*range(1, 67), *LENGTHS, 16383, 16384, 16401]:
        yield flat, n
    for n in LENGTHS:
        for shape in [(1, 1, n), (2, 3, n)]:
            yield batch, shape
        for shape in [(2, 1, n), (1, n, 1), (2, 3, n)]:
            yield masked, shape
        yield connected, (2, 3, n)
    for n in [n for n in LENGTHS if n <= 65]:
        yield channels, n
        for shape in [(n, 1, 1), (5, n, 1), (n, 3, 1), (1, n, 7), (n, 2, 5)]:
            yield batch, shape
        for shape in [(2, n, 17), (1, 33, n)]:
            yield transposed, shape
    for shape in [(1, 1, 16401), (2, 2, 9001), (40, 130, 3), (30, 70, 20), (70, 33, 16), (4200, 3, 1), (500, 65, 1)]:
        yield batch, shape
    for shape in [(37, 513, 1), (19, 1030, 1), (3, 8200, 1), (100, 5, 15)]:
        yield batch, shape
    for shape in [(1, 513, 30), (1, 30, 1030), (2, 7, 2083)]:
        yield transposed, shape
    for shape in [(2, 3, 17), (5, 4, 33), (7, 65, 2)]:
        yield strided, shape
    maps = [((7, 1, 14, 14, 1), (1, 7, 7)), ((2, 5, 6, 7, 3), (2, 3, 4)), ((1, 40, 30, 41, 1), (2, 3, 8))]
    yield from ((blocked, case) for case in [*maps, *(((3, 1, 1, n, 1), (1, 1, 1 + n // 3)) for n in TAILS)])
    planes = [(2, 3, 4096), (3, 5, 4097), (5, 65, 17), (7, 33, 16), (2, 2, 9001), *((1, 1, n) for n in TAILS)]
    rows = [(33, 3, 1), (5, 17, 1), (19, 1030, 1), (9, 5, 15), (3, 8200, 1), (6001, 3, 1)]
    yield from ((fused, shape) for shape in planes + rows)
    yield from ((counted, shape) for shape in planes + rows)
    for n in (17, 4097):
        yield forged, n


def threaded(_dtype: Any) -> Iterator[Case]:
    """Sizes that are worth threads."""
    for n in (65536, 65537, 66000):
        yield flat, n
    for shape in [(1, 1, 65551), (3, 3, 8193), (40, 130, 17), (9001, 8, 1), (70, 1030, 1), (2, 40000, 1), (9, 997, 9)]:
        yield batch, shape
    for shape in [(3, 5, 5003), (5, 33001, 1), (1, 2, 33001)]:
        yield masked, shape
    for shape in [(2, 513, 67), (1, 30, 2203)]:
        yield transposed, shape
    for case in [((350, 1, 14, 14, 1), (1, 7, 7)), ((1, 300, 40, 1, 7), (5, 7, 1))]:
        yield blocked, case
    for shape in [(7, 33, 301), (3, 5, 5003)]:
        yield connected, shape
    for shape in [(3, 3, 8193), (40, 130, 17), (9001, 8, 1), (70, 1030, 1)]:
        yield fused, shape
        yield counted, shape


def piece_ends(inner: int, n: int) -> list[int]:
    """Numbers of planes that have n elements or more, and a few beyond a multiple of 4096."""
    planes = range(n // inner + 1, n // inner + 4200)
    return [next(m for m in planes if m * inner % 4096 == more) for more in (9, 3, 1)]


def large(dtype: Any) -> Iterator[Case]:
    """Results that are written past the caches."""
    n = LARGE // dtype.itemsize
    yield flat, n + 5
    for shape in [
        (1, 3, n // 3 + 1),
        (3, n // 4521, 1507),
        (n // 66 + 1, 66, 1),
        (n // 3 + 1, 3, 1),
        (n // 5831 + 1, 119, 49),
    ]:
        yield batch, shape
    for shape in [(3, 5, n // 15 + 1), (3, n // 3 + 1, 1), (n // 1507 + 1, 1507, 1), (7, 1, n // 7 + 1)]:
        yield masked, shape
    yield transposed, (3, 700, n // 2100 + 1)
    yield blocked, ((n // 225 + 1, 1, 15, 15, 1), (1, 7, 7))
    # Spans whose last piece of a mask has 9, 3 and 1 elements, and spans of neighboring channels.
    for shape in [(n // 49 // 119 + 1, 119, 49), *((1, m, 49) for m in piece_ends(49, n)), (3, n // 4521, 1507)]:
        yield fused, shape


def main() -> None:
    dtypes, kinds = (words.split(",") for words in sys.argv[1:])
    n_cases = 0
    for name in dtypes:
        if name == "bfloat16":
            import ml_dtypes  # noqa: F401  # makes NumPy know the name
        dtype = np.dtype(name)
        for kind in kinds:
            for run, size in globals()[kind](dtype):
                print(name, run.__name__, size, flush=True)  # noqa: T201
                run(size, dtype)
                n_cases += 1
    print("done", n_cases)  # noqa: T201


if __name__ == "__main__":
    main()
