"""How often seeds must fall so that DropBlock drops a given share of a map."""

from __future__ import annotations

import math
from functools import lru_cache, reduce
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks
from normdrop.functional._masking import threshold_of

Counts: TypeAlias = npt.NDArray[np.int64]
Rate: TypeAlias = Literal["exact", "paper"]
Sizes: TypeAlias = tuple[int, ...]

RATES = ("exact", "paper")
_ALL = 1 << 32  # T where every element is a seed


class DropBlockRate(NamedTuple):
    """How often seeds fall, and what they drop.

    Examples
    --------
    >>> from normdrop import functional
    >>> rate = functional.drop_block_rate((8, 8), 0.1, 3)
    >>> rate.gamma < rate.realized_p, round(rate.realized_p, 6)
    (True, 0.1)
    """

    gamma: float
    """Probability that an element is a seed: a multiple of 2**-32."""
    realized_p: float
    """Expected share of the map that is dropped."""


def drop_block_rate(
    shape: tuple[int, ...], p: float, block_size: int | tuple[int, ...] = 7, *, rate: Rate = "exact"
) -> DropBlockRate:
    r"""Probability of a seed in DropBlock, and the share of a map that is dropped in expectation.

    A place of the map is dropped unless none of the seeds falls whose block covers it:

    .. math:: \bar p(\gamma) = 1 - \frac{1}{|M|} \sum_{i \in M} (1 - \gamma)^{c_i}

    where :math:`c_i` is the number of seeds whose block covers place i, the product of those along each axis. With
    ``rate="exact"``, γ is the multiple of 2**-32 for which this is nearest to p; with ``rate="paper"``,

    .. math:: \gamma = p \prod_k \frac{n_k}{b_k (n_k - b_k + 1)}

    of map sides n and block sides b, as in the paper, which ignores that blocks overlap, and so drops less than p.

    Parameters
    ----------
    shape : tuple of int
        Sides of the map: (L,), (H, W) or (D, H, W).
    p : float
        Share of the map to be dropped, from 0 to 1.
    block_size : int or tuple of int, default 7
        Sides of a block, or one for all. A side that is longer than the map's counts as that long.
    rate : {"exact", "paper"}, default "exact"
        How γ follows from p.

    Returns
    -------
    DropBlockRate
        ``gamma`` and ``realized_p``.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or range.

    See Also
    --------
    drop_block : what drops by it.

    Notes
    -----
    No mathematical library takes part, so that γ is the same on every machine.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
       2018, equation 1.

    Examples
    --------
    >>> from normdrop import functional
    >>> gamma, realized_p = functional.drop_block_rate((14, 14), 0.5, 7, rate="paper")
    >>> gamma, round(realized_p, 3)
    (0.03125, 0.358)
    >>> gamma, realized_p = functional.drop_block_rate((14, 14), 0.5, 7)
    >>> round(gamma, 4), round(realized_p, 6)
    (0.0526, 0.5)
    """
    if not isinstance(shape, tuple):
        raise TypeError(f"shape must be a tuple of the sides of the map, such as (14, 14); got {_checks.kind(shape)}")
    sides = tuple(_checks.integer(side, "shape", 1) for side in shape)
    if not 1 <= len(sides) <= 3:
        raise ValueError(f"shape must be that of a map, without batch and channels: 1 to 3 sides; got {shape}")
    blocks = clamped(block_size_of(block_size, len(sides)), sides)
    threshold = seeds_of(sides, blocks, _checks.probability(p), checked_rate(rate))
    return DropBlockRate(threshold / 2.0**32, realized_p_of(sides, blocks, threshold))


def checked_rate(value: object) -> Rate:
    """Return how gamma follows from p, after checks."""
    return "paper" if _checks.choice(value, "rate", RATES) == "paper" else "exact"


def block_size_of(value: object, ndim: int | None = None) -> Sizes:
    """Return the sides of a block as a tuple, after checks; one for all of `ndim` axes may be given as an int."""
    given = value if isinstance(value, tuple) else (value,) * (ndim or 1)
    sizes = tuple(_checks.integer(size, "block_size", 1) for size in given)
    if ndim is not None and len(sizes) != ndim:
        raise ValueError(f"block_size must be an int or a tuple of {ndim}, one for each side of the map; got {value!r}")
    return sizes


def clamped(blocks: Sizes, sides: Sizes) -> Sizes:
    """Return the sides of a block that are not longer than the map's."""
    return tuple(min(block, side) for block, side in zip(blocks, sides, strict=True))


def seeds_of(sides: Sizes, blocks: Sizes, p: float, rate: Rate) -> int:
    """T of the mask law of which seeds are made; axes along which blocks have one element do not matter."""
    return _seeds_of(*_wide(sides, blocks), p, rate)


def realized_p_of(sides: Sizes, blocks: Sizes, threshold: int) -> float:
    """Return the expected share of a map that seeds of this T drop."""
    return _realized_p_of(*_wide(sides, blocks), threshold)


def _wide(sides: Sizes, blocks: Sizes) -> tuple[Sizes, Sizes]:
    """Sides along the axes of which blocks have several elements: with others, the sum would be rounded elsewhere."""
    axes = [axis for axis, block in enumerate(blocks) if block > 1]
    return tuple(sides[axis] for axis in axes), tuple(blocks[axis] for axis in axes)


@lru_cache(maxsize=256)
def _seeds_of(sides: Sizes, blocks: Sizes, p: float, rate: Rate) -> int:
    if not blocks or (p in (0.0, 1.0) and rate == "exact"):
        return threshold_of(p)
    if rate == "paper":
        places = math.prod(block * (side - block + 1) for side, block in zip(sides, blocks, strict=True))
        return threshold_of(p * math.prod(sides) / places)
    counts = _counts(sides, blocks)
    low, high = 0, _ALL  # what they drop is below p, and p or more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _share(counts, middle) < p else (low, middle)
    return low if p - _share(counts, low) <= _share(counts, high) - p else high


@lru_cache(maxsize=256)
def _realized_p_of(sides: Sizes, blocks: Sizes, threshold: int) -> float:
    return _share(_counts(sides, blocks), threshold) if blocks else threshold / 2.0**32


@lru_cache(maxsize=64)
def _counts(sides: Sizes, blocks: Sizes) -> tuple[Counts, Counts]:
    """How many seeds may cover a place, and how many places there are for each of these numbers."""

    def joined(a: tuple[Counts, Counts], b: tuple[Counts, Counts]) -> tuple[Counts, Counts]:
        numbers, where = np.unique(np.multiply.outer(a[0], b[0]), return_inverse=True)
        places = np.zeros(numbers.size, np.int64)
        np.add.at(places, where.reshape(-1), np.multiply.outer(a[1], b[1]).reshape(-1))
        return numbers, places

    def along(side: int, block: int) -> tuple[Counts, Counts]:
        i = np.arange(side)
        covering = np.minimum(i, side - block) - np.maximum(0, i - block + 1) + 1
        numbers, places = np.unique(covering, return_counts=True)
        return numbers, places

    return reduce(joined, (along(side, block) for side, block in zip(sides, blocks, strict=True)))


def _share(counts: tuple[Counts, Counts], threshold: int) -> float:
    """Share of the places that seeds drop: by products and a sum that is rounded once, the same on all machines."""
    numbers, places = counts
    spared, power = np.ones(numbers.size), 1.0 - threshold / 2.0**32
    for bit in range(int(numbers.max()).bit_length()):
        spared[(numbers >> bit) & 1 == 1] *= power
        power *= power
    return 1.0 - math.fsum((spared * places).tolist()) / int(places.sum())
