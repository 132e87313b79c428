"""The networks of the demo, their loss and their optimizer: where normdrop's layers go, and how they are trained."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import log_softmax, softmax

import normdrop
from normdrop.demo.layers import Array, Conv, Dense, Flatten, Layer, MaxPool, Parameter, ReLU, Sigmoid
from normdrop.demo.on_gpu import OnGpu

VARIANTS = ("plain", "dropout", "batch norm", "both")


_gpu = False


def use_gpu(used: bool = True) -> None:
    """Say where normdrop's layers of networks made from now on shall be.

    Parameters
    ----------
    used : bool, default True
        Whether they are on a GPU.
    """
    global _gpu
    _gpu = used


def fully_connected(variant: str, *, rng: np.random.Generator, mask_rng: np.random.Generator) -> "Network":
    """Build 64-256-256-10 with ReLU; batch norm before each ReLU, in one pass with it, dropout (p = 0.5) after it.

    Dropout stays a layer of its own, so that it can be on while batch norm uses its running statistics.

    Parameters
    ----------
    variant : str
        One of `VARIANTS`.
    rng : numpy.random.Generator
        Draws the weights.
    mask_rng : numpy.random.Generator
        Draws the keys of the dropout masks.

    Returns
    -------
    Network
        A new network in training mode.
    """
    layers: list[Layer] = [Flatten()]
    for n_in, n_out in ((64, 256), (256, 256)):
        layers.append(Dense(n_in, n_out, rng=rng))
        has_norm = variant in ("batch norm", "both")
        layers.append(normdrop.BatchNormAct(n_out, activation="relu") if has_norm else ReLU())
        if variant in ("dropout", "both"):
            layers.append(normdrop.Dropout(0.5, rng=mask_rng))
    return Network([*layers, Dense(256, 10, rng=rng)])


def convolutional(variant: str, *, rng: np.random.Generator, mask_rng: np.random.Generator) -> "Network":
    """Build two 3 × 3 convolutions (16 and 32 channels), each with ReLU and max-pooling, and a dense layer.

    Batch norm stands before each ReLU, in one pass with it, channel dropout (p = 0.2) after it.

    Parameters
    ----------
    variant : str
        One of `VARIANTS`.
    rng : numpy.random.Generator
        Draws the weights.
    mask_rng : numpy.random.Generator
        Draws the keys of the dropout masks.

    Returns
    -------
    Network
        A new network in training mode.
    """
    layers: list[Layer] = []
    for n_in, n_out in ((1, 16), (16, 32)):
        layers.append(Conv(n_in, n_out, rng=rng))
        has_norm = variant in ("batch norm", "both")
        layers.append(normdrop.BatchNormAct2d(n_out, activation="relu") if has_norm else ReLU())
        if variant in ("dropout", "both"):
            layers.append(normdrop.Dropout2d(0.2, rng=mask_rng))
        layers.append(MaxPool())
    return Network([*layers, Flatten(), Dense(32 * 2 * 2, 10, rng=rng)])


def sigmoid(variant: str, *, rng: np.random.Generator, mask_rng: np.random.Generator) -> "Network":
    """Build 64-100-100-100-10 with sigmoids and small weights, as Ioffe & Szegedy (2015, section 4.1) do for MNIST.

    Parameters
    ----------
    variant : {"plain", "batch norm"}
        Whether batch norm stands before each sigmoid.
    rng : numpy.random.Generator
        Draws the weights from N(0, 0.1²).
    mask_rng : numpy.random.Generator
        Not used: there is no dropout.

    Returns
    -------
    Network
        A new network in training mode.
    """
    layers: list[Layer] = [Flatten()]
    for n_in in (64, 100, 100):
        layers.append(Dense(n_in, 100, rng=rng, scale=0.1))
        if variant == "batch norm":
            layers.append(normdrop.BatchNorm(100))
        layers.append(Sigmoid())
    return Network([*layers, Dense(100, 10, rng=rng, scale=0.1)])


class Network:
    """Layers one after the other; the output is one score (logit) per class.

    Parameters
    ----------
    layers : sequence of Layer
        The layers, first to last.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = [OnGpu(x) if _gpu and isinstance(x, normdrop.Layer) else x for x in layers]

    def train(self) -> None:
        """Set every layer to training mode: dropout drops, batch norm uses the statistics of the batch."""
        for layer in self.layers:
            layer.train()

    def eval(self) -> None:
        """Set every layer to inference mode: dropout passes on, batch norm uses its running statistics."""
        for layer in self.layers:
            layer.eval()

    def thin(self) -> None:
        """Set dropout to training mode and all else to inference mode: every pass is another thinned network."""
        for layer in self.layers:
            if isinstance(getattr(layer, "layer", layer), (normdrop.Dropout, normdrop.Dropout2d)):
                layer.train()
            else:
                layer.eval()

    def forward(self, x: Array) -> Array:
        """Compute the logits.

        Parameters
        ----------
        x : ndarray, shape (N, 1, 8, 8)
            Images.

        Returns
        -------
        ndarray, shape (N, 10)
            Logits.
        """
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dlogits: Array) -> None:
        """Store the gradient of every parameter in its layer.

        Parameters
        ----------
        dlogits : ndarray, shape (N, 10)
            Gradient of the loss with respect to the logits.
        """
        dy = dlogits
        for layer in reversed(self.layers):
            dy = layer.backward(dy)

    def learn(self, x: Array, labels: Array) -> float:
        """Compute the loss of a batch, and store its gradient in the layers.

        Parameters
        ----------
        x : ndarray, shape (N, 1, 8, 8)
            Images.
        labels : ndarray of int, shape (N,)
            The right class of each.

        Returns
        -------
        float
            The loss.
        """
        loss, dlogits = cross_entropy(self.forward(x), labels)
        self.backward(dlogits)
        return loss

    def parameters(self) -> Iterable[Parameter]:
        """Yield the parameters of all layers.

        Yields
        ------
        tuple
            Name, value and gradient, as the layers yield them.
        """
        for layer in self.layers:
            yield from layer.parameters()

    def probabilities(self, x: Array) -> Array:
        """Compute the probability of each class in the present mode.

        Parameters
        ----------
        x : ndarray, shape (N, 1, 8, 8)
            Images.

        Returns
        -------
        ndarray, shape (N, 10)
            Probabilities.
        """
        chunks = range(0, len(x), 128)  # what fits in a cache is faster
        return np.concatenate([softmax(self.forward(x[start : start + 128]), axis=1) for start in chunks])


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Compute the mean of -log softmax(logits)[label] over the batch.

    Parameters
    ----------
    logits : ndarray, shape (N, classes)
        Scores.
    labels : ndarray of int, shape (N,)
        The right class of each row.

    Returns
    -------
    loss : float
        The mean.
    dlogits : ndarray, shape of logits
        Its gradient.
    """
    rows = np.arange(len(labels))
    log_probabilities = log_softmax(logits, axis=1)
    dlogits: Array = np.exp(log_probabilities)
    dlogits[rows, labels] -= 1
    dlogits /= len(labels)
    return -float(log_probabilities[rows, labels].mean()), dlogits


class SGD:
    """Stochastic gradient descent with momentum: v = momentum · v - rate · gradient, then value += v.

    Parameters
    ----------
    network : Network
        Whose parameters to change.
    momentum : float, default 0.9
        Weight of the last move in the next one.
    """

    def __init__(self, network: Network, momentum: float = 0.9) -> None:
        self.network = network
        self.momentum = momentum
        self._velocities = [np.zeros_like(value) for _, value, _ in network.parameters()]

    def step(self, rate: float) -> None:
        """Move every parameter once, against the gradient of the last backward pass.

        Parameters
        ----------
        rate : float
            Learning rate.
        """
        for (_, value, gradient), velocity in zip(self.network.parameters(), self._velocities, strict=True):
            if gradient is None:
                raise RuntimeError("a step needs gradients; run a backward pass first")
            np.multiply(velocity, self.momentum, out=velocity)
            np.subtract(velocity, rate * gradient, out=velocity)
            np.add(value, velocity, out=value)
