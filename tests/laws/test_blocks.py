"""The numbers that decide bits of the statistics are those of the law (law 2.5)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from normdrop._cpu import blocks
from normdrop._cpu.kernels import plane_sums, row_sums
from normdrop._cpu.lanes import simd

pytestmark = pytest.mark.same

LAW = {"PLANE_BLOCK": 16384, "ROW_BLOCK": 65536, "MIN_ROWS": 128, "MAX_ROWS": 8192, "MIN_WIDTH": 64}


def test_blocks_of_sums_are_those_of_the_law() -> None:
    assert {name: value for name, value in vars(blocks).items() if name.isupper()} == LAW
    assert simd.LANES == 16


def test_the_page_of_the_law_names_every_number_that_decides_bits() -> None:
    path = Path(__file__).parents[2] / "docs" / "statistics-law.md"
    if not path.exists():
        pytest.skip("the pages are not here")
    page = path.read_text(encoding="utf-8")
    named: dict[str, int] = {}
    for line in page.splitlines():
        cells = line.split("|")
        if len(cells) == 5 and (names := re.findall(r"`([A-Z_]+)`", cells[2])):
            named |= dict(zip(names, map(int, cells[3].split(",")), strict=True))
    assert named == LAW


@pytest.mark.parametrize(
    ("shape", "planes_per_block", "values_per_plane", "blocks_per_channel"),
    [((32, 64, 3136), 5, 3136, 7), ((2, 3, 50_000), 1, 16384, 8), ((40_000, 2, 1), 16384, 1, 3)],
)
def test_blocks_of_planes_follow_from_the_shape(shape, planes_per_block, values_per_plane, blocks_per_channel) -> None:
    *_, planes, length, runs, n_blocks = plane_sums.geometry(shape)
    assert (planes, length) == (planes_per_block, values_per_plane)
    assert n_blocks == blocks_per_channel
    assert runs == -(-shape[2] // length)


@pytest.mark.parametrize(
    ("shape", "width", "rows_per_block", "n_blocks"),
    [((25_088, 512, 1), 512, 128, 196), ((1_000_000, 8, 1), 64, 1024, 123), ((4096, 4096, 1), 4096, 128, 32)],
)
def test_blocks_of_rows_follow_from_the_shape(shape, width, rows_per_block, n_blocks) -> None:
    grid = row_sums.geometry(shape)
    assert (grid[1], grid[3], grid[4]) == (width, rows_per_block, n_blocks)
