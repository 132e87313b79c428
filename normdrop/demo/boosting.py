"""Dropout boosting: the masks of dropout, but the ensemble of all thinned networks is trained, not each of them.

Dropout trains each thinned network towards the labels on its own. The gradient of the likelihood of their ensemble, the
renormalized geometric mean of their probabilities, has the mask in the network as there, but what the ensemble still
does wrong as the error:

    dropout   gradient of loss(thinned logits, labels),  by the logits: softmax(thinned logits) - labels
    boosting  the same, but with                                        softmax(mean logits)    - labels

where the mean is over all masks. Warde-Farley, Goodfellow, Courville and Bengio, "An empirical analysis of dropout in
piecewise linear networks", ICLR 2014, section 5, compare the two to find out whether it is the noise that helps, or
that many networks learn each for themselves.
"""

from itertools import pairwise

import numpy as np

import normdrop
from normdrop.demo.layers import Array, Dense, Flatten, Layer, ReLU
from normdrop.demo.networks import Network, cross_entropy

VARIANTS = ("plain", "dropout", "boosting")


def wide(variant: str, *, rng: np.random.Generator, mask_rng: np.random.Generator) -> Network:
    """Build 64-256-10 with ReLU and dropout (p = 0.5) after it.

    Parameters
    ----------
    variant : {"plain", "dropout", "boosting"}
        Whether there is dropout.
    rng : numpy.random.Generator
        Draws the weights.
    mask_rng : numpy.random.Generator
        Draws the keys of the dropout masks.

    Returns
    -------
    Network
        A new network in training mode.
    """
    return _network((64, 256), 0.5, variant, rng, mask_rng)


def small(variant: str, *, rng: np.random.Generator, mask_rng: np.random.Generator) -> Network:
    """Build 64-8-8-10 with ReLU and dropout (p = 0.2, of so few units) after each: 2^16 thinned networks.

    Parameters
    ----------
    variant : {"plain", "dropout", "boosting"}
        Whether there is dropout.
    rng : numpy.random.Generator
        Draws the weights.
    mask_rng : numpy.random.Generator
        Draws the keys of the dropout masks.

    Returns
    -------
    Network
        A new network in training mode.
    """
    return _network((64, 8, 8), 0.2, variant, rng, mask_rng)


def _network(
    sizes: tuple[int, ...], p: float, variant: str, rng: np.random.Generator, mask_rng: np.random.Generator
) -> Network:
    layers: list[Layer] = [Flatten()]
    for n_in, n_out in pairwise(sizes):
        layers += [Dense(n_in, n_out, rng=rng), ReLU()]
        if variant != "plain":
            layers.append(normdrop.Dropout(p, rng=mask_rng))
    return (Boosted if variant == "boosting" else Network)([*layers, Dense(sizes[-1], 10, rng=rng)])


class Boosted(Network):
    """A network whose ensemble of thinned networks is trained."""

    def learn(self, x: Array, labels: Array) -> float:
        """Compute the ensemble's loss of a batch, and store its gradient by one thinned network in the layers.

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
        loss, dlogits = cross_entropy(mean_logits(self, x), labels)
        self.train()
        self.forward(x)
        self.backward(dlogits)
        return loss


def mean_logits(network: Network, x: Array) -> Array:
    """Compute the mean of the logits over all thinned networks, whose softmax is that of the ensemble, exactly.

    The last mask stands before a linear layer, so that its mean is the scaled network's; those of a layer before it are
    all tried, which takes one of few units.

    Parameters
    ----------
    network : Network
        One of this module, with dropout; it is left in inference mode.
    x : ndarray, shape (N, 1, 8, 8)
        Images.

    Returns
    -------
    ndarray, shape (N, 10)
        Mean logits, of the dtype of x.
    """
    network.eval()
    bare = [getattr(layer, "layer", layer) for layer in network.layers]  # also on a GPU
    drops = {i: layer.p for i, layer in enumerate(bare) if isinstance(layer, normdrop.Dropout)}
    if len(drops) == 1:
        return network.forward(x)
    (first, p), _ = drops.items()  # of three, the second's masks would have to be tried, too
    hidden = _through(network.layers[:first], x)

    def thinned(masks: Array) -> Array:
        return _through(network.layers[first + 1 :], hidden * masks[:, np.newaxis] / x.dtype.type(1 - p))

    ensemble = normdrop.exact_ensemble(thinned, hidden.shape[1], p, dtype=x.dtype)
    return np.asarray(ensemble.mean, x.dtype)


def _through(layers: list[Layer], x: Array) -> Array:
    for layer in layers:
        x = layer.forward(x)
    return x
