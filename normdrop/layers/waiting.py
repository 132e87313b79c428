"""The forward passes of a layer that wait for backward."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _process
from normdrop.layers.attributes import Option

Array: TypeAlias = npt.NDArray[Any]


def _sum(before: Array | None, new: Array | None) -> Array | None:
    """Add a gradient, if there is one, to what was there before, if anything was."""
    total: Any = before if new is None else new if before is None else before + new
    return np.array(total) if isinstance(total, np.generic) else total  # NumPy makes numbers of sums of shape ()


class _Passes(threading.local):
    """The forward passes of one thread that wait for backward."""

    waiting: tuple[Any, int, bool] = (None, 0, False)
    """Context of the last one, how many have a backward that is asked for, whether one without came after those."""

    def __reduce__(self) -> tuple[Any, ...]:  # for a subclass whose __getstate__ gives all of its dictionary
        return _Passes, ()


class Waiting:
    """The methods of `Layer` by which passes wait for backward, those of each thread by themselves."""

    if TYPE_CHECKING:
        _passes: _Passes

    training = Option(lambda value: _checks.flag(value, "training"), "Whether the layer is in training mode.")

    def forget(self) -> None:
        """Let go of the forward passes of this thread that wait for backward, and of the inputs they hold."""
        self._passes.waiting = None, 0, False

    def _keep(self, context: Any, *, asked: bool) -> None:
        """Let a pass wait for backward; one that nobody asked for gives way to one that somebody did."""
        before, n_passes, _ = self._passes.waiting
        if asked or n_passes == 0:
            self._passes.waiting = context, n_passes + asked, False
        else:
            self._passes.waiting = before, n_passes, True

    def _waiting(self) -> Any:
        """Return the context of the one forward pass that waits for backward."""
        context, n_passes, is_passed_over = self._passes.waiting
        name = type(self).__name__
        if context is None:
            raise RuntimeError(
                "backward needs a forward pass before it in the same thread, and each forward pass serves one "
                f"backward; call the {name} layer first, or pass the context if it was returned (copies and pickles of "
                "a layer come without the passes that wait)"
            )
        if n_passes > 1:
            raise RuntimeError(
                f"{n_passes} forward passes of this {name} layer wait for backward, which cannot know to which of them "
                "dy belongs. Write y, context = layer.forward(x, return_context=True) and layer.backward(dy, "
                "context=context), or call layer.forget() before a forward pass if those before it need no backward."
            )
        if is_passed_over and not self.training:
            raise RuntimeError(
                f"a training pass of this {name} layer waits for backward, and one in inference came after it. Call "
                "layer.train() if dy belongs to the first; or write y, context = layer.forward(x, return_context=True) "
                "and layer.backward(dy, context=context), or call layer.forget() before the second."
            )
        return context

    def _take_gradients(
        self, own: dict[str, Any], gradients: Mapping[str, Array | None], *, accumulate: bool, waited: bool
    ) -> None:
        """Set the gradients in `own`, or add to them, and end the wait of the pass; all or nothing if interrupted."""
        with _process.updating:
            if accumulate:
                gradients = {name: _sum(own[name], new) for name, new in gradients.items()}
            waiting = self._passes.waiting
            try:
                if waited:
                    self._passes.waiting = None, 0, False
                own.update(gradients)
            except BaseException:
                self._passes.waiting = waiting
                raise
