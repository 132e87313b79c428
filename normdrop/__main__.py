"""The command line: ``python -m normdrop demo`` and ``python -m normdrop info``."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


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
    commands = parser.add_subparsers(title="commands", required=True, metavar="{demo,info}")

    demo = commands.add_parser(
        "demo",
        help="train small networks on real data, with and without the layers",
        description="Train a fully connected and a convolutional network on scikit-learn's handwritten digits:\n"
        "plain, with dropout, with batch norm and with both, each on several random splits.\n"
        "Print the test errors, and which claims of the literature they bear out; write a plot\n"
        "and all numbers. Nothing is downloaded.",
        epilog="examples:\n"
        "  python -m normdrop demo                      less than 3 minutes on two cores\n"
        "  python -m normdrop demo --quick --seed 7     less than 20 seconds, other random numbers\n"
        "The first run takes longer, because the kernels are compiled then.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--quick", action="store_true", help="train fewer and shorter, for a first look")
    demo.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="whole number that fixes all randomness: same seed, same table (default: 0)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("normdrop-demo"),
        metavar="DIR",
        help="folder for plot.png and results.json, made if it is not there (default: normdrop-demo)",
    )
    demo.set_defaults(command=_demo)

    info = commands.add_parser(
        "info",
        help="print versions, processor, threads and cache",
        description="Print what normdrop runs on: versions, processor and vector width, whether kernels may run\n"
        "on threads and why, where compiled kernels are kept, and CUDA.",
        epilog="example:\n  python -m normdrop info",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.set_defaults(command=_info)
    return parser


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 up, not {text!r}")
    return seed


def _fail(message: str, status: int = 2) -> int:
    print(f"python -m normdrop: {message}", file=sys.stderr)
    return status


def _demo(options: argparse.Namespace) -> int:
    packages = {"rich": "rich", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        return _fail(f'the demo needs {" and ".join(missing)}; install with: pip install "normdrop[demo]"')
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return _fail(f"--output: {options.output} is a file, not a folder")
    except OSError as error:
        return _fail(f"--output: cannot make the folder {options.output}: {error.strerror}")
    if not os.access(options.output, os.W_OK):
        return _fail(f"--output: cannot write into the folder {options.output}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for consoles without "±"

    from normdrop.demo import command, settings

    command.run(settings.QUICK if options.quick else settings.FULL, options.seed, options.output)
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
    from normdrop._cpu import launch

    yield "normdrop", normdrop.__version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform()})"
    for module in (np, numba, llvmlite, scipy):
        yield module.__name__, module.__version__
    yield "processor", launch.cpu_name()
    yield "vectors", f"{launch.vector_width()} bits"
    safe, reason = launch.explain_parallel()
    try:
        layer = numba.threading_layer()
    except ValueError:
        layer = "not started"
    yield "threads", f"{launch.threads()} of {numba.config.NUMBA_NUM_THREADS}"
    yield "threading layer", layer
    yield "parallel kernels", f"{'yes' if safe else 'no'}: {reason}"
    yield "kernel cache", launch.cache_folder() or "none: kernels are compiled anew in every process"
    yield "CUDA", "not implemented yet in this version; all arrays are processed on the CPU"


if __name__ == "__main__":
    sys.exit(main())
