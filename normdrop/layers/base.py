"""What all layers share: modes, the context between forward and backward, parameters, saved state."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy.typing as npt

from normdrop import _checks, _device
from normdrop.layers.attributes import Attribute, refuse_unknown
from normdrop.layers.waiting import Waiting, _Passes
from normdrop.random import MaskStream

Array: TypeAlias = npt.NDArray[Any]

_VERSION = 1  # of what __getstate__ gives


class Layer(Waiting):
    """Base of the layers: ``y = layer(x)``, then ``dx = layer.backward(dy)``.

    A layer is in training mode at first. `backward` belongs to the forward pass of the same thread that waits for it,
    in the mode of that pass, and can be called once for it. Where several passes wait at once, as in a layer that two
    branches share, each has its own context: ``y, context = layer.forward(x, return_context=True)`` and then
    ``layer.backward(dy, context=context)``, any number of times. A forward pass in inference displaces no training
    pass that waits, unless its own backward is asked for.

    Copies and pickles have everything but the passes that wait.

    Attributes
    ----------
    training : bool
        Whether the layer is in training mode.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer, x = normdrop.Dropout(0.5, rng=0), np.ones(64)
    >>> isinstance(layer, normdrop.Layer), layer.training
    (True, True)
    >>> first, context = layer.forward(x, return_context=True)
    >>> second = layer(x)
    >>> bool(np.all(layer.backward(x) == second)), bool(np.all(layer.backward(x, context=context) == first))
    (True, True)
    """

    def __init__(self) -> None:
        self.training = True
        self._passes = _Passes()

    if not TYPE_CHECKING:  # a checker that saw it would take every name

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                refuse_unknown(self, name, value)
            object.__setattr__(self, name, value)

    def train(self) -> Self:
        """Switch to training mode.

        Returns
        -------
        Layer
            The layer itself.
        """
        self.training = True
        return self

    def eval(self) -> Self:
        """Switch to inference mode.

        Returns
        -------
        Layer
            The layer itself.
        """
        self.training = False
        return self

    def _sample(self) -> bool:
        """Switch to inference, or, if the layer has a stream for masks, to training; return whether it draws any."""
        self.training = isinstance(vars(self).get("stream"), MaskStream)
        return self.training

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return ``forward(*args, **options)``."""
        return self.forward(*args, **options) if options else self.forward(*args)  # quicker without ``**``

    def forward(self, *args: Any, **options: Any) -> Any:
        """Compute the layer's output; see the layer."""
        raise NotImplementedError

    def backward(self, *args: Any, **options: Any) -> Any:
        """Compute the gradient with respect to the input of a forward pass; see the layer."""
        raise NotImplementedError

    def spawn(self, n: int) -> list[Self]:
        """Return independent copies of the layer, for workers or members of an ensemble.

        Those that draw masks have streams of their own, by `MaskStream.spawn`; copies would draw the same masks.

        Parameters
        ----------
        n : int
            How many; if it is not 0, the layer's stream, where it has one, moves on by one call.

        Returns
        -------
        list of Layer
            The copies; none of them has a pass that waits.

        Examples
        --------
        >>> import numpy as np
        >>> import normdrop
        >>> a, b = normdrop.Dropout(0.5, rng=0).spawn(2)
        >>> bool(np.array_equal(a(np.ones(64)), b(np.ones(64))))
        False
        """
        children = [copy.deepcopy(self) for _ in range(_checks.integer(n, "n", 0))]
        own = vars(self).get("stream")
        for child, stream in zip(children, own.spawn(n) if isinstance(own, MaskStream) else ()):  # noqa: B905
            vars(child)["stream"] = stream
        return children

    def parameters(self) -> Iterator[tuple[str, Array, Array | None]]:
        """Yield name, value and gradient of each learned parameter, for an optimizer that changes the value in place.

        Yields
        ------
        name : str
            Name of the parameter.
        value : ndarray
            The parameter itself, not a copy.
        gradient : ndarray or None
            Gradient of the last backward pass, of the value's shape and dtype; ``None`` if there was none.
        """
        yield from ()

    def _arrays(self) -> dict[str, Array]:
        """Arrays of the layer that it has now, by the names of their attributes."""
        return {}

    def to_device(self, like: Any = None) -> Self:
        """Move the layer's arrays to a GPU, where its inputs must be then; needs ``normdrop[cuda]``.

        A forward pass that was not followed by its backward is forgotten.

        Parameters
        ----------
        like : array on a GPU, optional
            The arrays become ones of its library, on its GPU; without it, Numba device arrays on Numba's current GPU.

        Returns
        -------
        Layer
            The layer itself.

        Raises
        ------
        RuntimeError
            There is no GPU, no driver for it, or no package to use it; the layer is then unchanged.
        """
        moved = {name: _device.to_device(_device.to_host(values), like) for name, values in self._arrays().items()}
        return self._moved(moved)

    def to_host(self) -> Self:
        """Move the layer's arrays to the host, as NumPy arrays; waits for the GPU.

        A forward pass that was not followed by its backward is forgotten.

        Returns
        -------
        Layer
            The layer itself.
        """
        return self._moved({name: _device.to_host(values) for name, values in self._arrays().items()})

    def _moved(self, arrays: Mapping[str, Array]) -> Self:
        vars(self).update(arrays)
        self._passes = _Passes()
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return copies of everything the layer would need to go on as it is, by name."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; on an error, nothing has changed."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an uncompressed ``.npz`` file without pickle, or to a ``.safetensors`` file.

        The file is written beside the one that was there, to the disk, and then takes its place: whatever fails, or
        ends the process, leaves the old one whole. A link stays a link, and an old file's mode is kept.

        Parameters
        ----------
        path : str or path-like
            File to write, exactly as named. If it ends in ``.safetensors``, such a file is written, which needs
            ``normdrop[safetensors]``, else an ``.npz`` one.

        Raises
        ------
        OSError
            The file cannot be written; the old one is as it was.
        ImportError
            The package for ``.safetensors`` files is missing.
        """
        from normdrop import _state_files

        _state_files.write(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a file written by `save`, a ``.safetensors`` one if `path` ends so.

        The file may come from anywhere. Nothing in it is run, only stored and deflated entries of numbers are read, and
        it is refused if it has more than 1 MiB and 4 times the layer's own state, packed or unpacked, before memory is
        taken for that.

        Parameters
        ----------
        path : str or path-like
            File to read.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            It is not such a file, or not of such a layer. The layer is then unchanged.
        ImportError
            The package for ``.safetensors`` files is missing.
        """
        from normdrop import _state_files

        _state_files.load(path, self.state_dict(), self.load_state_dict)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        like = next((values for values in self._arrays().values() if not _device.on_host(values)), None)
        return twin if like is None else twin.to_device(like)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_passes"}
        return state | {"state_version": _VERSION}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        values = dict(state)
        version = values.pop("state_version", 0)
        if version not in range(_VERSION + 1):
            raise ValueError(
                f"a {type(self).__name__} layer was pickled with version {version} of its state, and this normdrop "
                f"knows those up to {_VERSION}; load it with the normdrop that wrote it, and take its state_dict() here"
            )
        vars(self).update(self._upgraded(values) if version == 0 else values, _passes=_Passes())

    @classmethod
    def _upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a pickle that had no version, as it is now; those had a private name for each option."""
        values.pop("_context", None)
        known = {f"_{name}": name for name in dir(cls) if isinstance(inspect.getattr_static(cls, name), Attribute)}
        return {known.get(name, name): value for name, value in values.items()}
