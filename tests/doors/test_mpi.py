"""Statistics and a shared batch over processes of MPI, beside one process on the joined array."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop.mpi
from normdrop import ChannelStatistics

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
pytestmark = [pytest.mark.once, pytest.mark.same]


def with_mpi(n, *arguments):
    pytest.importorskip("mpi4py")
    if MPIEXEC is None:
        pytest.skip("no mpiexec")
    program = str(Path(__file__).with_name("mpi_program.py"))
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl": "self,vader,tcp"}
    more = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    env = os.environ | root | more | {"NUMBA_NUM_THREADS": "1"}
    command = [MPIEXEC, "-n", str(n), sys.executable, program, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("reduce", ["ours", "mpi4py's"])
@pytest.mark.parametrize("n", [2, 3])
def test_processes_of_mpi_have_the_results_of_one_on_the_joined_array(n, reduce):
    assert with_mpi(n, reduce) == f"right on {n}"


def test_parts_are_added_in_the_order_of_ranks():
    x = np.random.default_rng(0).normal(300.0, 0.1, (30, 2))
    parts = [ChannelStatistics.of(part) for part in np.split(x, [1, 1, 17])]
    comm = SimpleNamespace(allgather=lambda part: parts)
    assert normdrop.mpi.allreduce(parts[2], comm) == parts[0] + parts[1] + parts[2] + parts[3]
    assert normdrop.mpi.allreduce(np.ones(2), SimpleNamespace(allgather=lambda part: [part] * 3)).tolist() == [3.0, 3.0]


def test_what_is_missing_is_named(in_subprocess):
    with pytest.raises(TypeError, match="comm must be a communicator of mpi4py"):
        normdrop.mpi.allreduce(ChannelStatistics(2), comm="world")
    code = """
    import sys
    sys.modules["mpi4py"] = None
    import normdrop.mpi
    try:
        normdrop.mpi.allreduce(normdrop.ChannelStatistics(2))
    except ImportError as error:
        print(error)
    """
    (line,) = in_subprocess(code).splitlines()
    assert "pip install 'normdrop[mpi]'" in line
