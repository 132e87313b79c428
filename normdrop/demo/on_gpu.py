"""The layers of normdrop on a GPU inside networks of NumPy arrays: what they take and give is copied."""

from collections.abc import Iterable
from typing import Any

from normdrop import Layer, _device
from normdrop.demo.layers import Array, Parameter


class OnGpu:
    """A layer of normdrop on a GPU that takes and gives NumPy arrays.

    Parameters
    ----------
    layer : Layer
        The layer; it is moved to the GPU. The optimizer's copies of its parameters stay on the host.
    """

    def __init__(self, layer: Layer) -> None:
        self._values = {name: value for name, value, _ in layer.parameters()}
        self.layer: Any = layer.to_device()

    def train(self) -> object:
        """Switch to training mode."""
        return self.layer.train()

    def eval(self) -> object:
        """Switch to inference mode."""
        return self.layer.eval()

    def forward(self, x: Array) -> Array:
        """Compute the output on the GPU.

        Parameters
        ----------
        x : ndarray
            Input.

        Returns
        -------
        ndarray
            Output.
        """
        for name, value in self._values.items():
            _device.assign(getattr(self.layer, name), value)
        return _device.to_host(self.layer(_device.to_device(x)))

    def backward(self, dy: Array) -> Array:
        """Compute the gradients on the GPU.

        Parameters
        ----------
        dy : ndarray
            Gradient with respect to the output.

        Returns
        -------
        ndarray
            Gradient with respect to the input.
        """
        return _device.to_host(self.layer.backward(_device.to_device(dy)))

    def parameters(self) -> Iterable[Parameter]:
        """Yield what an optimizer needs, on the host.

        Yields
        ------
        tuple
            Name, value and gradient.
        """
        for name, _, gradient in self.layer.parameters():
            yield name, self._values[name], None if gradient is None else _device.to_host(gradient)
