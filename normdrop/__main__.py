"""The command line: ``python -m normdrop demo``, ``bench`` and ``info``."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; by default that of this process.

    Returns
    -------
    int
        Exit status.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return _fail("stopped", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m normdrop",
        description="Dropout and batch normalization for NumPy arrays.",
        epilog="Each command has its own help, for example: python -m normdrop demo --help",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="{demo,bench,info}")
    _add_demo(commands)
    _add_bench(commands)
    _add_info(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train small networks on real data, with and without the layers",
        description="Train a fully connected and a convolutional network on scikit-learn's handwritten digits:\n"
        "plain, with dropout, with batch norm, with both, and by fast dropout, on several random splits.\n"
        "Print the test errors, and whether claims of the literature hold there; write plots and all\n"
        "numbers. Nothing is downloaded.",
        epilog="examples:\n"
        "  python -m normdrop demo                      about 3 minutes on two cores\n"
        "  python -m normdrop demo --quick --seed 7     about 20 seconds, other random numbers\n"
        "The first run takes longer, because the kernels are compiled then.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--quick", action="store_true", help="a taste: half the splits, shorter training; settles less")
    demo.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="whole number that fixes all randomness: same seed, same tables but for times (default: 0)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("normdrop-demo"),
        metavar="DIR",
        help="folder for plots and results.json, made if it is not there (default: normdrop-demo)",
    )
    _add_device(demo, "run normdrop's layers on a GPU, and copy what they take and give; slower, with the same masks")
    demo.set_defaults(command=_demo)


def _add_bench(commands: Any) -> None:
    from normdrop.bench.peers import ENTRIES

    bench = commands.add_parser(
        "bench",
        help="measure the passes on this machine, beside a copy and other libraries",
        description="Time the passes of the layers on this machine, beside a copy of the same array and beside the\n"
        "libraries that are installed: NumPy formulas, PyTorch, torch.compile and JAX, all on the CPU.\n"
        "Print tables; write them, a plot and all numbers.",
        epilog="examples:\n"
        "  python -m normdrop bench                              about 12 minutes on two cores\n"
        "  python -m normdrop bench --quick                      about half a minute, few shapes\n"
        "  python -m normdrop bench --only batch_norm --peers torch,jax\n"
        "  python -m normdrop bench --quick --json > numbers.json\n"
        "  python -m normdrop bench --training                   training in PyTorch, about three minutes\n"
        "Close other programs first. Kernels are compiled before they are timed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--quick", action="store_true", help="measure few shapes in few rounds, for a first look")
    bench.add_argument(
        "--peers",
        type=_peers,
        metavar="LIST",
        help=f"other libraries to measure, of {','.join(ENTRIES)}, or none (default: all that are installed; "
        "without torch.compile for --quick)",
    )
    steps = "measure training steps in PyTorch, with accelerate and without; writes training.md, training.json"
    bench.add_argument("--training", action="store_true", help=steps)
    what = "measure only passes, or networks, with this in their name, such as batch_norm"
    bench.add_argument("--only", default="", metavar="TEXT", help=what)
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("normdrop-bench"),
        metavar="DIR",
        help="folder for table.md, plot.png and results.json, made if it is not there (default: normdrop-bench)",
    )
    _add_device(bench, "measure on a GPU beside a copy there, and PyTorch if it sees one; writes cuda.md, cuda.json")
    bench.add_argument("--json", action="store_true", help="print the numbers as JSON instead of the tables")
    bench.set_defaults(command=_bench)


def _add_device(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help=f"cpu, or cuda to {what} (default: cpu)"
    )


def _add_info(commands: Any) -> None:
    info = commands.add_parser(
        "info",
        help="print versions, processor, threads and cache",
        description="Print what normdrop runs on: versions, processor and vector width, whether kernels may run\n"
        "on threads and why, where compiled kernels are kept, and CUDA.",
        epilog="example:\n  python -m normdrop info",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.set_defaults(command=_info)


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 up, not {text!r}")
    return seed


def _peers(text: str) -> list[str]:
    from normdrop.bench.peers import ENTRIES

    names = [] if text == "none" else text.split(",")
    if unknown := [name for name in names if name not in ENTRIES]:
        raise argparse.ArgumentTypeError(f"must be none or some of {','.join(ENTRIES)}; got {','.join(unknown)!r}")
    return names


def _fail(message: str, status: int = 2) -> int:
    print(f"python -m normdrop: {message}", file=sys.stderr)
    return status


def _obstacle(task: str, packages: Mapping[str, str], output: Path) -> str:
    """Say what keeps a command from running: packages of its extra (by module), or its folder; "" if nothing does."""
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        return f'the {task} needs {" and ".join(missing)}; install with: pip install "normdrop[{task}]"'
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return f"--output: {output} is a file, not a folder"
    except OSError as error:
        return f"--output: cannot make the folder {output}: {error.strerror}"
    return "" if os.access(output, os.W_OK) else f"--output: cannot write into the folder {output}"


def _no_gpu() -> str:
    """Say what keeps the passes from a GPU; "" if nothing does."""
    from normdrop import _device

    found = _device.describe()
    return f"--device cuda: {found[4:]}" if found.startswith("no: ") else ""


def _tolerate_characters() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for consoles without "±"


def _demo(options: argparse.Namespace) -> int:
    packages = {"rich": "rich", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
    if obstacle := _obstacle("demo", packages, options.output):
        return _fail(obstacle)
    _tolerate_characters()

    from normdrop.demo import command, settings

    if options.device == "cuda" and (obstacle := _no_gpu()):
        return _fail(obstacle)
    chosen = settings.QUICK if options.quick else settings.FULL
    command.run(chosen, options.seed, options.output, gpu=options.device == "cuda")
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.training:
        return _bench_training(options)
    if options.device == "cuda":
        return _bench_on_gpu(options)

    from normdrop.bench import cases, settings

    chosen = settings.QUICK if options.quick else settings.FULL
    if not any(chosen.cases(options.only)):
        names = ", ".join(operation.name for operation in cases.PASSES)
        return _fail(f"--only: no pass has {options.only!r} in its name; there are: {names}")
    if obstacle := _obstacle("bench", {name: name for name in ("rich", "matplotlib", "psutil")}, options.output):
        return _fail(obstacle)
    _tolerate_characters()

    from normdrop.bench import command

    command.run(chosen, options.output, peers=options.peers, only=options.only, as_json=options.json)
    return 0


def _bench_training(options: argparse.Namespace) -> int:
    from normdrop.bench import training

    if options.device != "cpu" or options.peers is not None:
        return _fail("--training compares with PyTorch on the CPU; leave out --device and --peers")
    if obstacle := training.obstacle(options.only) or _obstacle("bench", {}, options.output):
        return _fail(obstacle)
    _tolerate_characters()
    training.run(
        training.QUICK if options.quick else training.FULL, options.output, only=options.only, as_json=options.json
    )
    return 0


def _bench_on_gpu(options: argparse.Namespace) -> int:
    from normdrop.bench import cuda

    if not cuda.chosen(options.only):
        return _fail(f"--only: no pass has {options.only!r} in its name; there are: {', '.join(cuda.PASSES)}")
    if obstacle := _no_gpu() or _obstacle("bench", {}, options.output):
        return _fail(obstacle)
    _tolerate_characters()
    amount = cuda.QUICK if options.quick else cuda.FULL
    cuda.run(amount, options.output, only=options.only, as_json=options.json)
    return 0


def _info(options: argparse.Namespace) -> int:
    rows = list(_facts())
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    import llvmlite
    import numba
    import numpy as np
    import scipy

    import normdrop
    from normdrop import _device
    from normdrop._cpu import compilations
    from normdrop._cpu.toolchain import launch, numba_internals, target

    yield "normdrop", normdrop.__version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform()})"
    for module in (np, numba, llvmlite, scipy):
        yield module.__name__, module.__version__
    yield "processor", f"{target.cpu_name()} ({platform.machine()})"
    yield "vectors", f"{target.vector_width()} bits"
    safe, reason = launch.explain_parallel()
    try:
        layer = numba.threading_layer()
    except ValueError:
        layer = "not started"
    yield "threads", f"{launch.threads()} of {numba.config.NUMBA_NUM_THREADS}"
    yield "threading layer", layer
    yield "parallel kernels", f"{'yes' if safe else 'no'}: {reason}"
    pool = normdrop.pool_info()
    outputs = f"{pool.recycled} of {pool.recycled + pool.fresh} large outputs so far took memory of earlier ones"
    yield "output pool", f"{pool.limit >> 20} MiB may lie idle; {outputs}" if pool.limit else "off"
    yield "kernel cache", compilations.cache_folder() or "none: kernels are compiled anew in every process"
    missing = ", ".join(numba_internals.MISSING)
    yield "inner parts of Numba", f"without {missing}" if missing else "all found"
    yield "CUDA", _device.describe()


if __name__ == "__main__":
    sys.exit(main())
