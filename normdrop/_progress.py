"""Progress bars, where the package rich is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from normdrop import _checks


@contextmanager
def bar(progress: bool | None, text: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error, or, with None, where that is a terminal; yield what moves it on by one."""
    shown = sys.stderr.isatty() if progress is None else _checks.flag(progress, "progress")
    if not shown:
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda: None
        return
    columns = TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as shown_bar:
        task = shown_bar.add_task("", total=total)
        yield lambda: shown_bar.advance(task)
