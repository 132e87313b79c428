"""Run under mpiexec: each process has a part, process 0 compares with the joined array and prints."""

import sys

import numpy as np
from mpi4py import MPI

import normdrop
import normdrop.mpi

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
cuts = {1: [], 2: [7], 3: [0, 11]}[size]  # unequal, and of three one is empty
rng = np.random.default_rng(0)
x, dy = rng.normal(3.0, 2.0, (2, 30, 4, 5))
mine, dmine = np.split(x, cuts)[rank], np.split(dy, cuts)[rank]


def layer_of(**options):
    layer = normdrop.BatchNorm(4, dtype=np.float64, **options)
    layer.gamma[:] = [1.0, 2.0, -3.0, 0.5]
    return layer


rounded = normdrop.mpi.allreduce(normdrop.ChannelStatistics.of(mine), comm)
exact = normdrop.mpi.allreduce(normdrop.ChannelStatistics.of(mine, exact=True))
added = comm.allreduce(normdrop.ChannelStatistics.of(mine, exact=True).to_array())
layer = layer_of(reduce=normdrop.mpi.allreduce if "ours" in sys.argv else comm.allreduce)
y = layer(mine)
dx = layer.backward(dmine)
same = {layer.running_var.tobytes() + layer.dgamma.tobytes() + rounded.to_array().tobytes()}
results = comm.gather((y, dx, layer.running_mean, layer.running_var, layer.dgamma, layer.dbeta, same))


def failing(part):
    raise ConnectionError("a worker is gone")


before = layer.state_dict()
layer.reduce = failing
try:
    layer(mine)
except ConnectionError:
    assert all(np.array_equal(layer.state_dict()[name], values) for name, values in before.items())

if rank == 0:
    whole = layer_of()
    expected = [whole(x), whole.backward(dy), whole.running_mean, whole.running_var, whole.dgamma, whole.dbeta]
    computed = [np.concatenate([r[k] for r in results]) for k in range(2)] + list(results[0][2:6])
    pairs = zip(computed, expected, strict=True)
    errors = [float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b)))) for a, b in pairs]
    assert max(errors) < 1e-12, errors
    assert len(set.union(*(r[6] for r in results))) == 1, "other bits on another process"
    assert exact == normdrop.ChannelStatistics.of(x, exact=True)
    assert normdrop.ChannelStatistics.from_array(added) == exact
    assert np.allclose(rounded.var(), exact.var(), rtol=1e-13, atol=0)
    print("right on", size)  # noqa: T201
