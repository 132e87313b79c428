"""All numbers, for a JSON file."""

import platform
from typing import Any

import numba
import numpy as np

import normdrop
from normdrop._cpu.toolchain import launch, target
from normdrop.bench.batch import Array
from normdrop.bench.cases import Case
from normdrop.bench.sides import OURS
from normdrop.bench.study import ALL, COPY, ONE, Measurement, Study


def machine(study: Study) -> dict[str, Any]:
    """Describe where the study runs.

    Parameters
    ----------
    study : Study
        The study.

    Returns
    -------
    dict
        Processor, threads and versions.
    """
    versions = {"Python": platform.python_version(), "normdrop": normdrop.__version__, "Numba": numba.__version__}
    versions |= {"NumPy": np.__version__} | {peer.name: peer.version for peer in study.peers}
    return {
        "processor": target.cpu_name(),
        "vector_bits": target.vector_width(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": study.n_threads,
        "threads_reason": launch.explain_parallel()[1],
        "versions": versions,
    }


def machine_line(study: Study) -> str:
    """Describe where the study runs, in one line.

    Parameters
    ----------
    study : Study
        The study.

    Returns
    -------
    str
        Processor, threads and versions.
    """
    facts = machine(study)
    threads = f"{study.n_threads} threads" if study.n_threads > 1 else f"1 thread ({facts['threads_reason']})"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['processor']} ({facts['vector_bits']}-bit vectors), {facts['system']}, {threads}; {versions}"


def results(study: Study, missing: dict[str, str]) -> dict[str, Any]:
    """Collect everything about a study.

    Parameters
    ----------
    study : Study
        One that was carried out.
    missing : dict of str to str
        Names of libraries, and why they were left out.

    Returns
    -------
    dict
        What JSON can hold: quartiles as [lower, median, upper], null where a side took no part in a round.
    """
    return {
        "machine": machine(study),
        "rounds": study.settings.rounds,
        "missing": missing,
        "failures": [{**_case(case), "library": name, "reason": reason} for case, name, reason in study.failures],
        "left_out": [_case(case) for case in study.left_out],
        "cases": [_measurement(measurement) for measurement in study.measurements],
        "threads": [
            _case(m.case) | {"speedup": list(m.ratio(ONE, ALL)), "seconds": _seconds(m)} for m in study.speedups
        ],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "family": case.family,
        "pass": case.operation.name,
        "shape": list(case.shape),
        "channels_last": case.channels_last,
    }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    sides = list(measurement.seconds)
    return _case(measurement.case) | {
        "microseconds": {side: measurement.microseconds(side) for side in sides},
        "over_copy": {side: list(measurement.ratio(side, COPY)) for side in sides},
        "over_normdrop": {side: list(measurement.ratio(side, OURS[0])) for side in sides},
        "seconds": _seconds(measurement),
    }


def _seconds(measurement: Measurement) -> dict[str, list[float | None]]:
    def listed(values: Array) -> list[float | None]:
        return [None if np.isnan(value) else float(value) for value in values]

    return {side: listed(values) for side, values in measurement.seconds.items()}
