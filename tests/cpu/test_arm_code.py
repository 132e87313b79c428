"""The machine code for Arm, read on any machine: whole NEON registers, no contraction, and what NEON has."""

from __future__ import annotations

import collections
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.once, pytest.mark.jit, pytest.mark.same]

MACHINE_CODE = runpy.run_path(str(Path(__file__).parents[1] / "machine_code.py"))

# Instructions and how often they must be there, half of what there is or less.
WANTED = {
    ("generic", "drawn_masks.dropout", "float32"): {"umull": 100, "umull2": 100, "uzp2": 100, "stnp": 16, "prfm": 8},
    ("generic", "planes.normalize", "float16"): {"fcvtl": 80, "fcvtn": 80, "fcvtl2": 80, "fcvtn2": 80, "stnp": 8},
    ("generic", "planes.batch_norm", "float32"): {"fcvtl": 40, "fcvtl2": 40, "fcvtn": 20, "stnp": 8},
    ("neoverse-v2", "rows.backward", "float32"): {"fcvtl": 40, "fcvtl2": 40, "fcvtn": 20, "stnp": 8},
    ("apple-m1", "transposed.dropout_transposed", "float16"): {"umull": 50, "umull2": 50},
}


@pytest.mark.parametrize("kernel", list(WANTED), ids=" ".join)
def test_kernels_for_arm_compute_in_whole_neon_registers_and_contract_nothing(kernel) -> None:
    code = MACHINE_CODE["kernel_code"](*kernel)
    counts = collections.Counter(re.findall(r"^\t([a-z][a-z0-9]*)\b", code, re.MULTILINE))
    few = {name: counts[name] for name, n in WANTED[kernel].items() if counts[name] < n}
    assert not few, f"{few}, at least {WANTED[kernel]}"
    # A product that goes into its sum unrounded has other bits than on x86.
    fused = [name for name in counts if re.match(r"fn?m(add|sub|la|ls)", name)]
    assert fused == []
    pairs = re.findall(r"\tstnp\t(\w)", code)
    assert set(pairs) <= {"q"}, "half a register is moved before it is streamed"
    assert not pairs or "\tdmb\tish" in code, "what was streamed is not ordered before what follows"
    called = set(re.findall(r"\tbl\t(?!_ZN8normdrop)(\S+)", code))
    assert called <= {"NRT_incref", "NRT_decref", "numba_attempt_nocopy_reshape", "memset"}


@pytest.mark.kinds
def test_the_draws_in_words_of_neon_are_those_of_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import njit

    from normdrop._cpu.kernels import mask_law
    from normdrop._cpu.kernels.mask_law import draw, kept
    from normdrop._cpu.lanes.bits import store_bits
    from normdrop._cpu.lanes.memory import pointer

    def drawn():
        @njit(["void(boolean[::1], int64, int64, int64, int64, int64)"])
        def compiled(mask, pair, call, key0, key1, threshold):  # type: ignore[no-untyped-def]
            to = pointer(mask, 0)
            for half in range(8):
                low, high = kept(draw(pair, call, key0, key1, threshold)[half], threshold)
                store_bits(to, 32 * half, low)
                store_bits(to, 32 * half + 16, high)

        return compiled

    ways = []
    for arm in (False, True):
        monkeypatch.setattr(mask_law.target, "is_arm", lambda arm=arm: arm)
        ways.append(drawn())
    codes = ["\n".join(way.inspect_llvm().values()) for way in ways]
    assert ["mul <2 x i64>" in code or "mul nuw <2 x i64>" in code for code in codes] == [False, True]
    for pair, call in ((0, 0), (3, 1 << 40), ((1 << 27) - 1, 7), (1 << 27, (1 << 63) - 1), ((1 << 55) - 1, 12345)):
        for threshold in (1, 1 << 16, 0x7FFF1234, 1 << 31, 0xFFFF0000, 0xFFFFFFFF):
            masks = np.zeros((2, 256), np.bool_)
            for way, mask in zip(ways, masks, strict=True):
                way(mask, pair, call, 0xDEADBEEF, 0x12345678, threshold)
            assert (masks[0] == masks[1]).all(), (pair, call, threshold)
            assert 50 < masks[0].sum() < 200 or threshold != 1 << 31
