"""What all layers share: modes, the context between forward and backward, parameters, saved state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from normdrop import _device

Array: TypeAlias = npt.NDArray[Any]
Self = TypeVar("Self", bound="Layer")


class Layer:
    """Base of the layers: ``y = layer(x)``, then ``dx = layer.backward(dy)``.

    A layer is in training mode at first. `backward` belongs to the last forward pass, in the mode of that pass, and
    can be called once for it.

    Attributes
    ----------
    training : bool
        Whether the layer is in training mode.
    """

    training: bool

    def __init__(self) -> None:
        self.training = True
        self._context: Any = None

    def train(self: Self) -> Self:
        """Switch to training mode.

        Returns
        -------
        Layer
            The layer itself.
        """
        self.training = True
        return self

    def eval(self: Self) -> Self:
        """Switch to inference mode.

        Returns
        -------
        Layer
            The layer itself.
        """
        self.training = False
        return self

    def __call__(self, x: Array, *, out: Array | None = None, **options: Any) -> Array:
        """Return ``forward(x, **options)``, `out` being one of them if it is given."""
        if options:
            return self.forward(x, **options) if out is None else self.forward(x, out=out, **options)
        return self.forward(x) if out is None else self.forward(x, out=out)  # twice as fast without ``**``

    def forward(self, x: Array, **options: Any) -> Array:
        """Compute the layer's output; see the layer."""
        raise NotImplementedError

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """Compute the gradient with respect to the last input; see the layer."""
        raise NotImplementedError

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

    def to_device(self: Self, like: Any = None) -> Self:
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

    def to_host(self: Self) -> Self:
        """Move the layer's arrays to the host, as NumPy arrays; waits for the GPU.

        A forward pass that was not followed by its backward is forgotten.

        Returns
        -------
        Layer
            The layer itself.
        """
        return self._moved({name: _device.to_host(values) for name, values in self._arrays().items()})

    def _moved(self: Self, arrays: Mapping[str, Array]) -> Self:
        for name, values in arrays.items():
            setattr(self, name, values)
        self._context = None
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return copies of everything the layer would need to go on as it is, by name."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; on an error, nothing has changed."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an uncompressed ``.npz`` file, without pickle.

        Parameters
        ----------
        path : str or path-like
            File to write, exactly as named.
        """
        with open(path, "wb") as file:
            np.savez(file, **self.state_dict())  # type: ignore[arg-type]  # the stub takes a name for a flag

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a file written by `save`.

        The file may come from anywhere. Nothing in it is run, and it is refused before it takes more memory than 16
        times that of the layer's own state and 1 MiB.

        Parameters
        ----------
        path : str or path-like
            File to read.

        Raises
        ------
        OSError
            The file cannot be read.
        TypeError, ValueError
            It is not such a file, or not of such a layer. The layer is then unchanged.
        """
        import zipfile
        import zlib

        from normdrop.layers import archive

        try:
            with open(path, "rb") as file:
                state = archive.read(file, archive.limit(self.state_dict()))
        except (ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"path must be an .npz file written by save(); cannot read {path!s}: {error}") from error
        self.load_state_dict(state)

    def _take_context(self) -> Any:
        if self._context is None:
            raise RuntimeError(
                f"backward needs a forward pass before it, and each forward pass serves one backward; "
                f"call the {type(self).__name__} layer first"
            )
        return self._context
