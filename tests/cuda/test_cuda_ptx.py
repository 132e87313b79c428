"""Code for four generations of GPUs, compiled without one: nothing spills, and what makes it fast is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ptx

DTYPES = ["float32", "float64", "float16", "bfloat16"]
GENERATIONS = ["75", "80", "90", "100"]
# Kernels that read four neighbors at a time, and those that sum over threads.
QUADS = ["dropout", "mask_planes", "mask_elements", "plane_moments", "plane_gradients", "row_moments"]
QUADS += ["row_gradients", "plane_normalize", "row_normalize", "plane_gradient", "row_gradient"]
FUSED = ["fused_relu", "fused_gelu", "fused_relu_backward", "fused_gelu_backward"]
FUSED_GIVEN = ["fused_gelu_tanh_given", "fused_gelu_tanh_backward_given"]
SUMS = ["plane_moments", "plane_gradients", "row_moments", "row_gradients", "merge_moments", "merge_gradients"]


def compiled(part, folder):
    """What `compile_for_gpus.py` says: {(kernel-arguments, dtype, generation, way): (faults, facts)}."""
    program = Path(__file__).parents[1] / "compile_for_gpus.py"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, str(program), part, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + "\nThe compiler comes with pip install 'normdrop[cuda]'."
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {tuple(key): (faults, facts) for *key, faults, facts in rows}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return compiled("quick", tmp_path_factory.mktemp("quick"))


def faulty(rows):
    return {key: faults for key, (faults, _) in rows.items() if faults}


def of(rows, generation, way):
    return {key: value for key, value in rows.items() if key[2:] == (generation, way) and not on_purpose(key)}


def on_purpose(key):
    return " " in key[0]


def name(key):
    return key[0].partition("-")[0]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_kernel_compiles_and_uses_neither_local_memory_nor_calls(quick, generation):
    rows = of(quick, generation, "code")
    assert {name(key) for key in rows} >= {
        *QUADS, *SUMS, *FUSED, *FUSED_GIVEN, "keep_mask", "keep_samples", "dropout_transposed", "update", "_copy"
    }  # fmt: skip
    assert len(rows) > 60
    assert faulty(rows) == {}


@pytest.mark.parametrize(("generation", "way"), [("75", "LTO"), ("80", "PTX"), ("90", "PTX"), ("100", "LTO")])
def test_no_kernel_spills(quick, generation, way):
    rows = of(quick, generation, way)
    dtypes = DTYPES if way == "PTX" else ["float32"]
    assert {key[1] for key in rows} == {"", *dtypes}
    assert len(rows) >= 15 * len(dtypes)
    assert faulty(rows) == {}


def test_what_is_wrong_on_purpose_is_found(quick):
    rows = {key: faults for key, (faults, _) in quick.items() if on_purpose(key)}
    assert rows["an array per thread", "", "75", "code"] == [".local"]
    assert "[('256', '0', '0')]" in rows["an array per thread", "", "75", "PTX"][0]
    assert re.search(r"\[\('[1-9]\d*', '[1-9]\d*', '[1-9]\d*'\)\]", rows["too few registers", "", "75", "PTX"][0])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_four_neighbors_are_one_access_and_warps_shuffle(quick, generation):
    facts = {key: value[1] for key, value in of(quick, generation, "code").items()}
    assert [key for key in facts if name(key) in QUADS and "quads" not in facts[key]] == []
    assert [key for key in facts if name(key) in SUMS and "shfl.sync" not in facts[key]] == []
    of_dropout = "dropout", "dropout_transposed", "keep_mask", "keep_samples"
    draws = [facts[key] for key in facts if name(key) in of_dropout]
    draws += [facts[key] for key in facts if name(key) in FUSED]
    assert len(draws) == 26
    assert all("mul.wide.u32" in facts for facts in draws)


def test_the_target_that_numba_brings_along_compiles_every_kernel(tmp_path):
    rows = compiled("own", tmp_path / "home")
    assert {name(key) for key in rows} >= {*QUADS, *SUMS}
    assert {key[2:] for key in rows} == {("75", "PTX")}
    assert faulty(rows) == {}
    assert all("shfl.sync" in rows[key][1] for key in rows if name(key) in SUMS)


@pytest.mark.cold
def test_the_other_dtypes_and_the_other_way_of_each_generation_spill_nothing(tmp_path):
    rows = compiled("rest", tmp_path)
    assert {key[2:] for key in rows} == {(generation, "LTO") for generation in GENERATIONS} | {
        ("75", "PTX"),
        ("100", "PTX"),
    }
    assert faulty(rows) == {}
