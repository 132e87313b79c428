"""Commands beside those of asv: smoke, noise, one, njit, plots, masked, family, readme and reductions.

See README.md.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

COMMANDS = ("smoke", "noise", "one", "njit", "plots", "masked", "family", "readme", "reductions")
MODULES = ("dropout", "family", "batch_norm", "fused", "startup", "memory", "accuracy", "njit")


def _load_package() -> None:
    """Import this folder as a package without the folder above on the path: normdrop is the installed one."""
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    spec = importlib.util.spec_from_file_location("benchmarks", folder / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = package
    spec.loader.exec_module(package)


def main() -> int:
    """Run the command that the first argument names, and return its exit status."""
    command, *arguments = sys.argv[1:] or ["help"]
    if command not in COMMANDS:
        print(__doc__)
        return command not in ("help", "-h", "--help")
    if command == "smoke":
        os.environ["NORMDROP_BENCH_SMOKE"] = "1"
    _load_package()
    tool = importlib.import_module(f"benchmarks.{command}")
    if command == "smoke":
        modules = arguments or MODULES
        return int(tool.main([importlib.import_module(f"benchmarks.{name}") for name in modules]) > 0)
    return int(tool.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
