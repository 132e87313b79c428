"""What layers share that draw from a stream: the pass that happens whole or not at all, and what is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from normdrop import _process
from normdrop.layers.attributes import Option
from normdrop.layers.base import Array, Layer
from normdrop.random import check_stream

C = TypeVar("C")


class Drawing(Layer):
    """A layer whose passes in training take a call of its stream."""

    stream = Option(check_stream, "Key and call number of the next pass.")

    def _passed(self, run: Callable[[], tuple[Array, C]], *, return_context: bool) -> Array | tuple[Array, C]:
        """Run a pass in inference, which waits if nobody takes its context."""
        y, context = run()
        if not return_context:
            self._keep(context, asked=False)
        return (y, context) if return_context else y

    def _trained(
        self,
        run: Callable[[], tuple[Array, C]],
        *,
        moves: bool,
        asked: bool,
        return_context: bool,
        counts: bool = False,
    ) -> Array | tuple[Array, C]:
        """Run a pass in training: all or nothing, whatever interrupts it.

        It takes a call if it `moves` the stream, and is a step of a schedule if it `counts`.
        """
        own, waiting = vars(self), self._passes.waiting
        stream, n_counted = own["stream"], 0
        made: Any = None
        try:
            y, made = run()
            if counts:
                with _process.updating:
                    own["step"], n_counted = own["step"] + 1, 1
            if return_context:
                return y, made
            self._keep(made, asked=asked)
            return y
        except BaseException:
            self._passes.waiting = waiting
            if n_counted:
                with _process.updating:
                    own["step"] -= n_counted
            if made is not None and moves:
                stream.give_back(made.call)
            raise

    def state_dict(self) -> dict[str, Array]:
        """Return key and call of the stream.

        Returns
        -------
        dict
            ``key`` (uint32, shape (2,)) and ``call`` (int64, shape ()).
        """
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over key and call.

        Parameters
        ----------
        state : mapping
            Exactly the entries of `state_dict`.
        """
        self.stream.load_state_dict(state)
