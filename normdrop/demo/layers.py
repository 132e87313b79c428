"""The layers around normdrop's own, in plain NumPy, forward and backward by hand.

Batches of images are (N, C, H, W), as normdrop expects them by default.
"""
# Layer documents the methods, and each class its formula.
# ruff: noqa: D102

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit

Array = npt.NDArray[Any]
Parameter = tuple[str, Array, Array | None]


class Layer(Protocol):
    """What a network asks of a layer; normdrop's layers offer it."""

    def train(self) -> object:
        """Switch to training mode."""

    def eval(self) -> object:
        """Switch to inference mode."""

    def forward(self, x: Array) -> Array:
        """Compute the output.

        Parameters
        ----------
        x : ndarray, shape (N, ...)
            Batch of inputs.

        Returns
        -------
        ndarray
            Batch of outputs, y.
        """
        ...

    def backward(self, dy: Array) -> Array:
        """Compute the gradient with respect to the last input, and store those of the parameters.

        Parameters
        ----------
        dy : ndarray, shape of y
            Gradient of the loss with respect to the output.

        Returns
        -------
        ndarray, shape of x
            Gradient of the loss with respect to the input, dx.
        """
        ...

    def parameters(self) -> Iterable[Parameter]:
        """Yield what an optimizer needs.

        Yields
        ------
        name : str
            Name of the parameter.
        value : ndarray
            The parameter itself, to be changed in place.
        gradient : ndarray or None
            Gradient of the last backward pass.
        """
        ...


class Modeless:
    """Base of the layers that do the same in training and inference."""

    def train(self) -> object:
        return self

    def eval(self) -> object:
        return self

    def parameters(self) -> Iterable[Parameter]:
        return ()


class Dense(Modeless):
    """Compute y = x · weight + bias.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of features of x, (N, n_in), and y, (N, n_out).
    rng : numpy.random.Generator
        Draws the weights from N(0, scale²). Biases start at 0.
    scale : float, optional
        √(2 / n_in) by default, which keeps the size of activations from one ReLU layer to the next (He et al. 2015).
    dtype : dtype, default float32
        Dtype of weights and biases.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        rng: np.random.Generator,
        scale: float | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        scale = (2 / n_in) ** 0.5 if scale is None else scale
        self.weight: Array = (scale * rng.standard_normal((n_in, n_out))).astype(dtype)
        self.bias: Array = np.zeros(n_out, dtype)
        self.dweight = np.zeros_like(self.weight)
        self.dbias = np.zeros_like(self.bias)

    def forward(self, x: Array) -> Array:
        self._x = x
        y: Array = x @ self.weight
        y += self.bias
        return y

    def backward(self, dy: Array) -> Array:
        np.matmul(self._x.T, dy, out=self.dweight)
        dy.sum(axis=0, out=self.dbias)
        dx: Array = dy @ self.weight.T
        return dx

    def parameters(self) -> Iterable[Parameter]:
        yield "weight", self.weight, self.dweight
        yield "bias", self.bias, self.dbias


class Conv(Dense):
    """Convolve with 3 × 3 filters and zero padding: (N, n_in, H, W) to (N, n_out, H, W).

    The neighborhood of every pixel becomes a row of a matrix, and the convolution a `Dense` layer on those rows. So y
    has its channels last in memory; normdrop's layers take any memory order and keep it.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of channels of x and y.
    rng : numpy.random.Generator
        Draws the weights.
    dtype : dtype, default float32
        Dtype of weights and biases.
    """

    def __init__(self, n_in: int, n_out: int, *, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32) -> None:
        super().__init__(9 * n_in, n_out, rng=rng, dtype=dtype)

    def forward(self, x: Array) -> Array:
        n, _, height, width = x.shape
        return super().forward(_neighborhoods(x)).reshape(n, height, width, -1).transpose(0, 3, 1, 2)

    def backward(self, dy: Array) -> Array:
        n, n_out, height, width = dy.shape
        np.matmul(self._x.T, dy.transpose(0, 2, 3, 1).reshape(-1, n_out), out=self.dweight)
        dy.sum(axis=(0, 2, 3), out=self.dbias)
        # dx is the convolution of dy with the filters turned by 180 degrees.
        turned = self.weight.reshape(3, 3, -1, n_out)[::-1, ::-1].transpose(0, 1, 3, 2).reshape(9 * n_out, -1)
        return (_neighborhoods(dy) @ turned).reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def _neighborhoods(x: Array) -> Array:
    """Lay out the 3 × 3 neighborhoods in x of all pixels as the rows of a matrix, (N·H·W, 9·C)."""
    n, c, height, width = x.shape
    padded = np.zeros((n, height + 2, width + 2, c), x.dtype)
    padded[:, 1:-1, 1:-1] = x.transpose(0, 2, 3, 1)
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * c)


class MaxPool(Modeless):
    """Take the largest of every 2 × 2 square: (N, C, H, W) to (N, C, H/2, W/2), H and W even."""

    def forward(self, x: Array) -> Array:
        self._x = x
        self._y = np.maximum(
            np.maximum(x[:, :, ::2, ::2], x[:, :, ::2, 1::2]), np.maximum(x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2])
        )
        return self._y

    def backward(self, dy: Array) -> Array:
        dx = np.empty_like(self._x)
        for i in range(2):
            for j in range(2):
                square = np.s_[:, :, i::2, j::2]
                np.multiply(dy, self._x[square] == self._y, out=dx[square])
        return dx


class ReLU(Modeless):
    """Compute y = max(x, 0)."""

    def forward(self, x: Array) -> Array:
        self._y: Array = np.maximum(x, 0)
        return self._y

    def backward(self, dy: Array) -> Array:
        dx: Array = dy * (self._y > 0)
        return dx


class Sigmoid(Modeless):
    """Compute y = 1 / (1 + exp(-x))."""

    def forward(self, x: Array) -> Array:
        y: Array = expit(x)
        self._y = y
        return y

    def backward(self, dy: Array) -> Array:
        dx: Array = dy * self._y * (1 - self._y)
        return dx


class Flatten(Modeless):
    """Make one row of each image: (N, C, H, W) to (N, C·H·W)."""

    def forward(self, x: Array) -> Array:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array) -> Array:
        return dy.reshape(self._shape)
