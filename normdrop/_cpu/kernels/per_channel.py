"""Kernels over numbers per channel: what inference needs, and the running statistics. Serial, for they are short."""

from __future__ import annotations

import numpy as np

from normdrop._cpu.kernels.arithmetic import running
from normdrop._cpu.kinds import Memory, Real, Table
from normdrop._cpu.toolchain.launch import kernel


@kernel("Pddwwf")
def inference_vectors(vectors: Table, mean: Memory, var: Memory, gamma: Memory, beta: Memory, eps: Real) -> None:
    """vectors = [mean, gamma * inv_std, beta, inv_std]."""
    for c in range(mean.size):
        inv_std = 1.0 / np.sqrt(var[c] + eps)
        vectors[0, c], vectors[1, c] = mean[c], np.float64(gamma[c]) * inv_std
        vectors[2, c], vectors[3, c] = beta[c], inv_std


@kernel("oopff")
def update_running(mean: Memory, var: Memory, statistics: Table, momentum: Real, correction: Real) -> None:
    """running = momentum * running + (1 - momentum) * batch."""
    for c in range(mean.size):
        mean[c] = running(mean[c], statistics[0, c], momentum, 1.0 - momentum)
        var[c] = running(var[c], statistics[1, c], momentum, (1.0 - momentum) * correction)
