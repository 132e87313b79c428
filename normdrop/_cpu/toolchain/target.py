"""The CPU that kernels are compiled for: this one, or what Numba's settings name."""

from __future__ import annotations

import llvmlite.binding as llvm
from numba import config


def cpu_name() -> str:
    """Return LLVM's name of the CPU that kernels are compiled for."""
    return str(config.CPU_NAME or llvm.get_host_cpu_name())


def _features() -> str:
    named = config.CPU_FEATURES  # none at all for the name "generic"
    return str(llvm.get_host_cpu_features().flatten() if named is None else named)


def vector_width() -> int:
    """Return the bits of the widest vector registers that kernels use."""
    features = _features().split(",")
    widths = {"+avx512f": 512, "+avx2": 256, "+avx": 256}
    return max((width for name, width in widths.items() if name in features), default=128)


def is_arm() -> bool:
    """Whether kernels are compiled for Arm's 64-bit processors, all of which have NEON."""
    return str(llvm.get_process_triple()).startswith(("aarch64", "arm64"))


def has_half_instructions() -> bool:
    """Whether there are instructions that turn float16 into float32 and back."""
    return is_arm() or "+f16c" in _features().split(",")


def description() -> tuple[str, ...]:
    """Return all from which Numba makes out for which CPU to compile."""
    return llvm.get_process_triple(), cpu_name(), _features(), str(config.ENABLE_AVX)
