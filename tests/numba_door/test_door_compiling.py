"""How callers are compiled: with any options, from the cache, after an upgrade, not at all; and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normdrop
import normdrop.numba as door

pytestmark = [pytest.mark.once]

Run = Callable[..., str]

CALLER = """
from numba import njit
import normdrop.numba as door


@njit(cache=True)
def drop(y, x, key, call):
    door.dropout_into(y, x, 0.5, key, call)
"""
"""A module of a user."""

SHOW = """
import numpy as np
import user

x, y, z = np.ones(700), np.empty(700), np.empty(700)
user.drop(y, x, (1, 2), 3)
late = user.njit(lambda y, x: user.door.dropout_into(y, x, 0.5, (1, 2), 3))
late(z, x)
law = [user.door.keep((1, 2), 3, i, 0.5) for i in range(700)]
print("".join("01"[int(v > 0)] for v in y), np.array_equal(z > 0, law), *user.drop.stats.cache_hits.values())
"""
"""What a cached function draws, whether one compiled now draws by the law, and how often there was a cached one."""


@pytest.mark.jit
def test_a_cached_function_is_compiled_once_and_after_an_upgrade_keeps_its_bits_and_lends_its_code_to_no_other(
    tmp_path: Path,
) -> None:
    """The version to come differs in a number of Philox, so that its masks are others."""
    package = Path(normdrop.__path__[0])
    shutil.copytree(package, tmp_path / "normdrop", ignore=shutil.ignore_patterns("__pycache__", "torch", "bench"))
    (tmp_path / "user.py").write_text(CALLER, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> list[str]:
        command = [sys.executable, "-c", SHOW]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    drawn, *rest = run()
    assert drawn == "".join("01"[int(v > 0)] for v in door.dropout(np.ones(700), 0.5, (1, 2), 3))
    assert rest == ["True"]
    assert run() == [drawn, "True", "1"]
    philox = tmp_path / "normdrop" / "_philox.py"
    source = philox.read_text(encoding="utf-8")
    philox.write_text(source.replace("WEYL_0 = 0x9E3779B9", "WEYL_0 = 0x9E3779BB"), encoding="utf-8")
    assert run() == [drawn, "True", "1"]  # the old bits from the cache, the new ones elsewhere
    shutil.rmtree(tmp_path / "cache")
    cleared, *rest = run()
    assert cleared != drawn
    assert rest == ["True"]


@pytest.mark.jit
def test_fast_math_of_a_caller_neither_changes_its_bits_nor_those_of_kernels_compiled_later(
    in_subprocess: Run, tmp_path: Path
) -> None:
    code = """
    import hashlib
    import numpy as np
    from numba import njit
    import normdrop.numba as door
    from normdrop import ChannelStatistics

    @njit(fastmath=True, error_model="python")
    def pipeline(x):
        return door.moments(x)

    def passes(x):
        statistics = ChannelStatistics.of(x)
        return statistics.mean, statistics.to_array()[3] / len(x)

    def digest(arrays):
        return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()

    x = np.random.default_rng(0).normal(300, 0.1, (640, 9)).astype(np.float32)
    x[3, 4] = np.nan
    """
    found = in_subprocess(code + "print(digest(pipeline(x)), digest(passes(x)))", NUMBA_CACHE_DIR=str(tmp_path))
    scope: dict[str, Any] = {}
    exec(textwrap.dedent(code), scope)
    assert found.split() == [scope["digest"](scope["passes"](scope["x"]))] * 2


@pytest.mark.jit
def test_every_function_that_is_compiled_says_that_it_has_no_fast_math() -> None:
    """One that says nothing takes it from the caller for which it is first compiled, and is compiled once."""
    from normdrop._cpu.toolchain import launch

    for options in (launch.helper_options(), launch.helper_options(inlined=False), launch._OPTIONS):
        assert options["fastmath"] is False
        assert options["error_model"] == "numpy"


@pytest.mark.jit
def test_without_the_jit_everything_is_plain_python_with_the_same_bits(in_subprocess: Run) -> None:
    code = """
    import numpy as np
    from numba import njit, prange
    import normdrop.numba as door
    from normdrop import MaskStream, functional

    @njit(parallel=True)
    def pipeline(x, key, call):
        y, statistics = door.batch_norm(x, None, None, 1e-5, 1)
        mean, var = door.moments(x)
        z, dx, dgamma, dbeta = np.empty_like(x), np.empty_like(x), np.empty(9), np.empty(9)
        door.normalize_into(z, x, mean, var, None, None)
        for i in prange(2):
            door.dropout_into(z[i], z[i], 0.3, key, call)
        door.batch_norm_backward_into(dx, dgamma, dbeta, z, x, statistics, None)
        door.dropout_backward_into(dx, dx, 0.3, key, call)
        n, m, m2 = door.statistics_update(0, 0, 0, 1.5)
        kept = [door.keep(key, call, i, 0.3) for i in range(9)]
        words = [int(door.bits(key, call, i)) for i in range(9)]
        return y, statistics, z, dx, dgamma, dbeta, np.array([n, m, m2]), np.array(kept), np.array(words)

    x = np.random.default_rng(0).normal(300, 0.1, (64, 9)).astype(np.float32)
    import hashlib
    found = hashlib.sha256(b"".join(a.tobytes() for a in pipeline(x, (1, 2), 3))).hexdigest()
    print(found)
    """
    scope: dict[str, Any] = {}
    exec(textwrap.dedent(code).replace(" in pipeline(", " in pipeline.py_func("), scope)
    assert in_subprocess(code, NUMBA_DISABLE_JIT="1").strip() == scope["found"]


def test_importing_it_loads_numba_and_nothing_else_does(in_subprocess: Run) -> None:
    code = """
    import sys
    import normdrop
    print("numba" in sys.modules)
    import normdrop.numba
    print("numba" in sys.modules, "torch" in sys.modules, "numba.cuda" in sys.modules)
    """
    assert in_subprocess(code, silent=True).split() == ["False", "True", "False", "False"]


REFUSED = [
    ("door.dropout(x, 0.5, key, 1)", {"x": np.ones((4, 3)).T}, "x must be C-contiguous", "np.ascontiguousarray(x)"),
    ("door.dropout(x[:, 0], 0.5, key, 1)", {"x": np.ones((4, 3))}, "x must be C-contiguous", "np.ascontiguousarray(x)"),
    ("door.dropout(x, 0.5, key, 1)", {"x": np.ones(4, np.float16)}, "x must be float32 or float64", "got float16"),
    (
        "door.dropout(x, 0.5, key, 1)",
        {"x": np.ones(4, np.int64)},
        "x must be float32 or float64",
        "x.astype(np.float32)",
    ),
    ("door.dropout(x, 0.5, key, 1)", {"x": 3.0}, "x must be an array", "float64"),
    ("door.dropout(x, 0.5, 7, 1)", {"x": np.ones(4)}, "key must be a tuple of two ints", "stream.key"),
    ("door.dropout(x, 0.5, (1, 2.0), 1)", {"x": np.ones(4)}, "key must be a tuple of two ints", "stream.key"),
    ("door.dropout(x, 0.5, key, 1.0)", {"x": np.ones(4)}, "call must be an int", "float64"),
    ("door.dropout(x, 'half', key, 1)", {"x": np.ones(4)}, "p must be a real number", "half"),
    ("door.dropout_into(x, x.astype(np.float32), 0.5, key, 1)", {"x": np.ones(4)}, "y must be as x", "float32"),
    ("door.dropout_into(x.reshape(2, 2), x, 0.5, key, 1)", {"x": np.ones(4)}, "y must be as x", "1 axes"),
    ("door.dropout_into(x, x, 0.5, key, 1)", {"x": np.broadcast_to(np.ones(1), (1,))}, "y is written", "writable"),
    ("door.moments(x)", {"x": np.ones(4)}, "x must have 2 or more axes", "reshape"),
    ("door.batch_norm(x, x, None)", {"x": np.ones((4, 3))}, "gamma must have one axis", "got 2"),
    ("door.batch_norm(x, None, 1.0)", {"x": np.ones((4, 3))}, "beta must be an array", "float64"),
    ("door.batch_norm(x, None, None, None)", {"x": np.ones((4, 3))}, "eps must be a real number", "none"),
    ("door.batch_norm(x, None, None, 1e-5, 1.0)", {"x": np.ones((4, 3))}, "channel_axis must be an int", "float64"),
    ("door.batch_norm_into(x, x[0], x, None, None)", {"x": np.ones((4, 3))}, "statistics must be float64", "(3, C)"),
    ("door.keep(key, 1, 0.5, 0.5)", {"x": 1}, "index must be an int", "float64"),
    ("door.statistics_update(1, 2, x, 3)", {"x": np.ones(2)}, "m2 must be a real number", "array"),
]


@pytest.mark.jit
@pytest.mark.parametrize(
    ("call", "given", "words", "more"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_type_is_an_error_of_numba_that_says_what_to_do(
    call: str, given: dict[str, object], words: str, more: str
) -> None:
    import numba

    import normdrop.numba as door

    scope = {"door": door, "np": np}
    exec(f"def user(x, key):\n    return {call}", scope)
    with pytest.raises(numba.TypingError) as caught:
        numba.njit(scope["user"])(given["x"], (1, 2))
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(caught.value))
    assert any(words in line and more in line for line in text.split("\n")), text
