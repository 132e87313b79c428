"""A network that is trained by fast dropout: means and variances pass through its layers, and no mask is drawn."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

import normdrop
from normdrop import _device, fast
from normdrop.demo.layers import Array, Dense, Flatten, Layer, ReLU
from normdrop.demo.networks import Network, fully_connected

Backward = Callable[[Array, Array], tuple[Array, Array]]


def propagate(layers: Iterable[Layer], x: Array) -> tuple[fast.Moments, list[Backward]]:
    """Compute the moments of the logits over all masks.

    Parameters
    ----------
    layers : iterable of Layer
        Of a fully connected network. Batch norm uses its running statistics.
    x : ndarray, shape (N, 1, 8, 8)
        Images.

    Returns
    -------
    moments : normdrop.fast.Moments, shape (N, 10)
        Of the logits.
    backward : list of callable
        For each step, a function from the gradients with respect to the moments after it to those before it. Those of
        dense layers store the gradients of their parameters, as `Network.backward` does.
    """
    moments, p = fast.Moments(x), 0.0
    backward: list[Backward] = []
    for layer in (getattr(layer, "layer", layer) for layer in layers):
        if isinstance(layer, Flatten):
            moments = fast.Moments(layer.forward(x))
        elif isinstance(layer, normdrop.Dropout):
            p = layer.p  # belongs to the dense layer that comes next
        elif type(layer) is Dense:  # no convolution
            moments, context = fast.linear(moments, layer.weight, layer.bias, p=p)
            backward.append(partial(_through_dense, layer, context))
            p = 0.0
        elif isinstance(layer, (ReLU, normdrop.BatchNormAct)):
            if isinstance(layer, normdrop.BatchNormAct):
                moments = _normalized(layer, moments)
            moments, of_relu = fast.activation(moments, "relu")
            backward.append(partial(_through_relu, of_relu))
        else:
            raise TypeError(f"no moments through a layer of type {type(layer).__name__}")
    return moments, backward


def _through_dense(layer: Dense, context: fast.LinearContext, d_mean: Array, d_var: Array) -> tuple[Array, Array]:
    found = fast.linear_backward(d_mean, d_var, context)
    layer.dweight[...] = found.weight
    layer.dbias[...] = found.bias
    return found.mean, np.zeros_like(found.mean) if found.var is None else found.var


def _through_relu(context: fast.ActivationContext, d_mean: Array, d_var: Array) -> tuple[Array, Array]:
    return fast.activation_backward(d_mean, d_var, context)


def _normalized(layer: Any, moments: fast.Moments) -> fast.Moments:
    statistics = (_device.to_host(values) for values in (layer.running_mean, layer.running_var))
    scale = (_device.to_host(values) for values in (layer.gamma, layer.beta))
    return fast.batch_norm_inference(moments, *statistics, *scale, eps=layer.eps)[0]


class FastNetwork(Network):
    """A network of dense layers, ReLU and dropout that learns from the mean of the loss over all masks.

    Parameters
    ----------
    layers : sequence of Layer
        The layers, first to last.
    """

    def learn(self, x: Array, labels: Array) -> float:
        """Compute the expected loss of a batch, and store its gradient in the layers.

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
        logits, backward = propagate(self.layers, x)
        loss, (d_mean, d_var) = fast.cross_entropy(logits, labels)
        for step in reversed(backward):
            d_mean, d_var = step(d_mean, d_var)
        return loss


def fast_dropout(variant: str, *, rng: np.random.Generator, mask_rng: np.random.Generator) -> FastNetwork:
    """Build the fully connected network with dropout, to be trained by fast dropout.

    Parameters
    ----------
    variant : {"dropout"}
        Which of `networks.VARIANTS`.
    rng : numpy.random.Generator
        Draws the weights: those that the network has that is trained by masks.
    mask_rng : numpy.random.Generator
        Draws the keys of the masks, which are used only after training.

    Returns
    -------
    FastNetwork
        A new network.
    """
    return FastNetwork(fully_connected(variant, rng=rng, mask_rng=mask_rng).layers)
