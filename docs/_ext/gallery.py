"""Figures of the gallery: functions of the page itself draw them, with the names that they have there."""

from collections.abc import Callable
from typing import Any

from figures import names_of, register

PAGE = "gallery.md"


def _fan(axes: Any) -> None:
    names_of(PAGE)["fan"](axes)


def _panels(name: str) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        names_of(PAGE)[name](figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)

    return draw


register({"fan": _fan})
register({name: _panels(name) for name in ("regions", "loss_curves", "running")}, height=2.9, whole=True)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
