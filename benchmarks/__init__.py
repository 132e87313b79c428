"""Benchmarks for asv, and what must be settled first: the folder of compiled kernels, and who measures.

No commit may be timed with another's code. Numba looks for a cached kernel by the file and the line of its function,
and two commits are installed to the same files, so each version of the sources gets a folder of its own.

All commits must be measured alike, those before the bench included. So `normdrop.bench`, of which these benchmarks use
protocol, sides and shapes, is always that of the checkout in which they lie; only the rest of normdrop is the commit's.
"""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

SMOKE = bool(os.environ.get("NORMDROP_BENCH_SMOKE"))
FULL = bool(os.environ.get("NORMDROP_BENCH_FULL")) and not SMOKE
_PROCESS = os.getpid()


def source_digest() -> str:
    """Return a digest of the sources of the normdrop that will be imported."""
    spec = importlib.util.find_spec("normdrop")
    if spec is None or spec.origin is None:
        raise ImportError("normdrop is not installed in this environment")
    package = Path(spec.origin).parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(str(source.relative_to(package)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def isolate_kernels() -> None:
    """Keep compiled kernels in a folder of the environment that belongs to these sources alone."""
    if "numba" in sys.modules:
        raise RuntimeError("Numba was imported before the benchmarks and has chosen a folder for kernels")
    folder = Path(os.environ.get("ASV_ENV_DIR", sys.prefix)) / "normdrop-kernels" / source_digest()
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def check_process() -> None:
    """Refuse to measure in a forked process: there normdrop stays on one thread."""
    if os.getpid() != _PROCESS:
        raise RuntimeError("benchmarks need a process of their own: asv --launch-method spawn")


def bring_bench() -> None:
    """Let `normdrop.bench` be what lies beside this folder, whatever commit of normdrop is installed."""
    import normdrop

    if "normdrop.bench" not in sys.modules:
        file = Path(__file__).resolve().parent.parent / "normdrop" / "bench" / "__init__.py"
        spec = importlib.util.spec_from_file_location("normdrop.bench", file)
        normdrop.bench = sys.modules["normdrop.bench"] = importlib.util.module_from_spec(spec)


if not SMOKE:  # nothing is timed there, and the kernels of other tests may be used
    isolate_kernels()
bring_bench()
