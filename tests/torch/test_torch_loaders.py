"""Workers of a `DataLoader`, forked and spawned, draw masks by their own seeds, and nothing hangs."""

from __future__ import annotations

import json
import multiprocessing
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.once, pytest.mark.slow]
STEPS = Path(__file__).parent / "loader_steps.py"


@pytest.mark.parametrize("context", multiprocessing.get_all_start_methods())
def test_workers_that_start_after_kernels_ran_draw_the_masks_of_their_seeds(context: str) -> None:
    done = subprocess.run(
        [sys.executable, str(STEPS), context], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first == second  # the loader was given the same seed
    seeds, kept = zip(*first, strict=True)
    assert all(len(set(its)) == 1 for its in seeds)
    assert len({its[0] for its in seeds}) == 2
    assert kept[0] != kept[1]
    items_of = runpy.run_path(str(STEPS))["items_of"]
    assert [items_of(its[0], 4) for its in seeds] == list(kept)
