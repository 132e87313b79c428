"""The command ``python -m normdrop bench --training``: steps of networks of PyTorch, with `accelerate` and without."""

import copy
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import normdrop
from normdrop._cpu.toolchain import launch, target
from normdrop.bench.protocol import Call, Times, measure
from normdrop.bench.settings import FULL as SETTINGS
from normdrop.bench.settings import QUICK as QUICK_SETTINGS
from normdrop.bench.settings import Settings

PEER, OURS, WITHOUT = "PyTorch", "normdrop", "without"
PASSIVE = "OMP_WAIT_POLICY=PASSIVE"
FULL = dataclasses.replace(SETTINGS, rounds=25, seconds=0.2)
QUICK = dataclasses.replace(QUICK_SETTINGS, rounds=5, seconds=0.05)
LEGEND = (
    "Times of a whole step: forward, backward and the optimizer's. normdrop: the same network after accelerate(), with "
    "fusion. Speed-up: PyTorch's time over normdrop's, the median of the ratios within a round and its quartiles. At "
    "most: the speed-up of the same network without dropout and batch normalization, as if they took no time. passive: "
    f"with {PASSIVE}, by which threads that wait do not spin."
)

Seconds = dict[str, dict[str, list[float]]]  # of networks and sides in each round


def chosen(only: str) -> list[str]:
    """Return the networks that have these words in their names, which may be joined by underscores."""
    from normdrop.bench.networks import NETWORKS

    return [name for name in NETWORKS if only.lower().replace("_", " ") in name.lower()]


def obstacle(only: str) -> str:
    """Say what keeps the networks from being measured; "" if nothing does."""
    if importlib.util.find_spec("torch") is None:
        return '--training needs PyTorch; install with: pip install "normdrop[torch]"'
    if not chosen(only):
        return f"--only: no network has {only!r} in its name; there are: {'; '.join(chosen(''))}"
    return ""


def run(settings: Settings, output: Path, *, only: str = "", as_json: bool = False) -> None:
    """Measure, show it and save it.

    Parameters
    ----------
    settings : Settings
        How much to measure.
    output : Path
        An existing folder for ``training.json`` and ``training.md``.
    only : str, default ""
        Part of the names of the networks to measure.
    as_json : bool, default False
        Whether to print the numbers as JSON instead of the table.
    """
    measured = {"default": times(settings, only), "passive": _times_of_another_process(settings, only)}
    machine = _machine()
    collected = json.dumps({"machine": machine, "seconds": measured}, indent=1, allow_nan=False)
    line = ", ".join(f"{name} {fact}" for name, fact in machine.items())
    table = "\n".join([line, "", LEGEND, "", *_table(measured)])
    (output / "training.json").write_text(collected + "\n", encoding="utf-8")
    (output / "training.md").write_text(table + "\n", encoding="utf-8")
    print(collected if as_json else table)


def times(settings: Settings, only: str) -> Seconds:
    """Time steps of each network in this process, all sides by turns.

    Parameters
    ----------
    settings : Settings
        How much to measure.
    only : str
        Part of the names of the networks to measure.

    Returns
    -------
    dict of str to dict of str to list of float
        Seconds of a step, by network and side, in each round.
    """
    rng = np.random.default_rng(0)
    found = {}
    for name in chosen(only):
        seconds = measure(_sides(name), settings, rng, always=3)
        found[name] = {side: values.tolist() for side, values in seconds.items()}
    return found


def _sides(name: str) -> dict[str, Call]:
    import torch

    from normdrop.bench.networks import NETWORKS
    from normdrop.torch import accelerate

    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    labels = torch.randint(10, (len(x),))
    twin, bare = copy.deepcopy(model), copy.deepcopy(model)
    accelerate(twin)
    _leave_out(bare)
    return {side: _step(net, x, labels) for side, net in ((PEER, model), (OURS, twin), (WITHOUT, bare))}


def _leave_out(model: Any) -> None:
    """Take dropout and batch normalization out of a network."""
    from torch import nn

    for name, layer in model.named_children():
        if isinstance(layer, (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)):
            setattr(model, name, nn.Identity())
        elif isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
        else:
            _leave_out(layer)


def _step(model: Any, x: Any, labels: Any) -> Call:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)  # small: any number of steps stays finite

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


_CODE = """
import dataclasses, json, sys
from normdrop.bench import settings, training

given = json.loads(sys.argv[1])
only = given.pop("only")
print(json.dumps(training.times(dataclasses.replace(settings.FULL, **given), only)))
"""


def _times_of_another_process(settings: Settings, only: str) -> Seconds:
    """Measure where waiting threads do not spin: an OpenMP library reads that once, when it starts."""
    given = {name: getattr(settings, name) for name in ("rounds", "seconds", "longest", "fewest")}
    name, _, value = PASSIVE.partition("=")
    command = [sys.executable, "-c", _CODE, json.dumps({**given, "only": only})]
    done = subprocess.run(command, env=os.environ | {name: value}, stdout=subprocess.PIPE, check=True, text=True)
    found: Seconds = json.loads(done.stdout)
    return found


def _machine() -> dict[str, str]:
    import torch

    return {
        "processor": target.cpu_name(),
        "normdrop": f"{normdrop.__version__} on {launch.threads()} threads",
        PEER: f"{torch.__version__} on {torch.get_num_threads()} threads",
    }


def _table(measured: dict[str, Seconds]) -> Iterator[str]:
    yield f"| network | {PEER}, ms | {OURS}, ms | speed-up | at most | speed-up, passive |"
    yield f"|---|{'---:|' * 5}"
    for name, seconds in measured["default"].items():
        *_, passive, _ = _cells(measured["passive"][name])
        yield f"| {' | '.join([name, *_cells(seconds), passive])} |"


def _cells(seconds: dict[str, list[float]]) -> Iterator[str]:
    found = Times({side: np.array(values) for side, values in seconds.items()})
    for side in (PEER, OURS):
        yield f"{found.microseconds(side) / 1000:.2f}"
    ratio = found.ratio(PEER, OURS)
    yield f"{ratio.middle:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
    yield f"{found.ratio(PEER, WITHOUT).middle:.2f}"
