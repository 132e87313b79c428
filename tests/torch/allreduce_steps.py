"""What a process of a group does for `test_torch_allreduce.py`: python allreduce_steps.py RANK WORLD FOLDER.

Each process has a part of the joined batch, process 0 compares. At the end the last process is killed in the midst of a
reduction, and the others look at their layers.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

import normdrop
from normdrop.torch import allreduce

rank, world = (int(word) for word in sys.argv[1:3]) if __name__ == "__main__" else (0, 2)
cuts = {2: [7], 3: [0, 11]}[world]  # unequal, and of three one is empty
rng = np.random.default_rng(0)
x, dy = rng.normal(3.0, 2.0, (2, 30, 4, 5))
mine, dmine = np.split(x, cuts)[rank], np.split(dy, cuts)[rank]


def layer_of(**options):
    layer = normdrop.BatchNorm(4, dtype=np.float64, **options)
    layer.gamma[:] = [1.0, 2.0, -3.0, 0.5]
    return layer


def state_of(layer):
    arrays = layer.state_dict() | {"dgamma": layer.dgamma, "dbeta": layer.dbeta}
    return {name: np.asarray(value).tobytes() for name, value in arrays.items()}


def killing(part):
    """Be gone while the others wait, or be one of those."""
    if rank == world - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return allreduce(part)


def compare():
    rounded = allreduce(normdrop.ChannelStatistics.of(mine))
    dtype = np.float32 if rank == 0 else np.float64  # sums of other grids
    exact = allreduce(normdrop.ChannelStatistics.of(mine.astype(np.float32).astype(dtype), exact=True))
    layer = layer_of(reduce=allreduce)
    y, dx = layer(mine), layer.backward(dmine)
    results = [None] * world
    same = layer.running_var.tobytes() + layer.dgamma.tobytes() + rounded.to_array().tobytes()
    dist.all_gather_object(results, (y, dx, layer.running_mean, layer.running_var, layer.dgamma, layer.dbeta, same))
    whole = layer_of()
    expected = [whole(x), whole.backward(dy), whole.running_mean, whole.running_var, whole.dgamma, whole.dbeta]
    computed = [np.concatenate([r[k] for r in results]) for k in range(2)] + list(results[0][2:6])
    pairs = zip(computed, expected, strict=True)
    errors = [float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b)))) for a, b in pairs]
    assert max(errors) < 1e-12, errors
    assert len({r[6] for r in results}) == 1, "other bits on another process"
    assert exact == normdrop.ChannelStatistics.of(x.astype(np.float32), exact=True)
    assert np.allclose(rounded.var(), normdrop.ChannelStatistics.of(x, exact=True).var(), rtol=1e-13, atol=0)


def message_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def refuse():
    """What does not fit is an error on each process, and the next reduction works."""
    layer = normdrop.BatchNorm(3 + min(rank, 1), reduce=allreduce)
    assert "channels" in message_of(lambda: layer(np.ones((2, len(layer.gamma)))))
    first = dist.new_group([0])
    if rank == 0:
        assert allreduce(np.ones(2), first).tolist() == [1.0, 1.0]
    else:
        assert "group must be one that this process is in" in message_of(lambda: allreduce(np.ones(2), first))


def lose_a_process(backward):
    layer = layer_of(reduce=allreduce)
    if backward:
        layer(mine), layer.backward(dmine)
        layer(mine)
    before = state_of(layer)
    layer.reduce = killing
    try:
        layer.backward(dmine) if backward else layer(mine)
    except RuntimeError:
        assert state_of(layer) == before, "half an update"
    else:
        raise AssertionError("a part of the batch was missed by nobody")


def main(folder):
    limit = datetime.timedelta(seconds=150)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    compare()
    refuse()
    lose_a_process(backward=world == 2)
    print("right on", world, flush=True)  # noqa: T201
    os._exit(0)  # the group cannot end in good order


if __name__ == "__main__":
    main(Path(sys.argv[3]))
