"""What can hardly be brought about in this process otherwise: no threads, no sources, no home, broken imports."""

from __future__ import annotations

import logging
import pkgutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from numba import config

from normdrop import _process
from normdrop._cpu import compilations
from normdrop._cpu.toolchain import compiling, launch, numba_internals, sources, teams


def _fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_threads_that_cannot_all_be_started_are_not_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start, n_before = threading.Thread.start, threading.active_count()

    def start_three(thread: threading.Thread) -> None:
        if threading.active_count() - n_before == 3:
            _fail()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    assert teams._try(3)
    assert not teams._try(4)
    assert threading.active_count() == n_before, "threads were left behind"
    monkeypatch.setattr(teams, "_tried", threading.local())
    assert teams.can_start(3)
    monkeypatch.setattr(threading.Thread, "start", _fail)
    assert teams.can_start(3)


def test_an_interrupt_leaves_no_threads_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start, n_before = threading.Thread.start, threading.active_count()

    def start_one(thread: threading.Thread) -> None:
        if threading.active_count() > n_before:
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(KeyboardInterrupt):
        teams._try(3)
    assert threading.active_count() == n_before


def test_threads_that_were_tried_are_gone_before_others_start(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [1, 3, 2, 1]
    monkeypatch.setattr(_process, "native_threads", lambda: counts.pop(0))
    assert teams._try(2)
    assert counts == []


def test_kernels_are_serial_in_a_thread_that_can_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_layer_safety", None)
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 2)
    monkeypatch.setattr(launch, "_layer_is_started", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(teams, "can_start", lambda n: False)
    safe, reason = launch.explain_parallel()
    assert not safe
    assert "2 further threads cannot be started" in reason
    assert launch._layer_safety is None


def test_numba_gets_ready_in_the_calling_thread_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_prepared", False)
    compiling.prepare()
    assert compiling._prepared
    monkeypatch.setattr(compiling, "_prepared", False)
    monkeypatch.setattr(threading.Thread, "start", _fail)
    compiling.prepare()
    assert compiling._prepared


def test_settings_that_cannot_be_read_anew_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "reload_config", _fail)
    with compiling.undisturbed():
        config.reload_config()
    assert config.reload_config is _fail


@pytest.mark.parametrize(("function", "result"), [("iter_modules", []), ("get_data", None)])
def test_without_sources_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, function: str, result: Any) -> None:
    sources.digests.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(pkgutil, function, lambda *_: result)
        with pytest.raises(OSError, match="cannot be"):
            sources.digests()
        assert compilations.cache_folder() is None
    assert len(set(sources.digests())) > 20


@pytest.mark.skipif(sys.platform != "linux", reason="names the user's folder as Linux does")
@pytest.mark.parametrize(("home", "is_taken"), [("/absolute", True), ("relative", False)])
def test_a_cache_for_the_user_is_taken_where_its_place_is_known(
    monkeypatch: pytest.MonkeyPatch, home: str, is_taken: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    places = {place.__name__ for place in numba_internals.Places._locator_classes.fget(None)}
    assert "InTreeCacheLocator" in places
    assert ("UserWideCacheLocator" in places) == is_taken


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "RecursionError"])
def test_modules_of_a_package_whose_import_failed_are_imported_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    package = tmp_path / "broken_off"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import kept_whole\nfrom broken_off import part\nimport broken_off.late\n", encoding="utf-8"
    )
    (tmp_path / "kept_whole.py").write_text("", encoding="utf-8")
    (package / "part.py").write_text("", encoding="utf-8")
    (package / "late.py").write_text(f"raise {error}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises((KeyboardInterrupt, RecursionError)):
        _process.load("broken_off")
    assert [name for name in sys.modules if name.startswith("broken_off")] == []
    assert sys.modules.pop("kept_whole")
    (package / "late.py").write_text("import broken_off\nbroken_off.part\n", encoding="utf-8")
    assert _process.load("broken_off").part is sys.modules["broken_off.part"]
    for name in [name for name in sys.modules if name.startswith("broken_off")]:
        del sys.modules[name]


def test_numbas_logger_has_its_level_again_after_a_compilation() -> None:
    root, numbas = logging.getLogger(), logging.getLogger("numba")
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        with compiling.undisturbed():
            assert not numbas.isEnabledFor(logging.DEBUG)
        assert numbas.level == logging.NOTSET
        assert numbas.isEnabledFor(logging.DEBUG)
    finally:
        root.setLevel(before)
