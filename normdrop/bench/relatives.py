"""The calls of normdrop's layers that are relatives of dropout: they drop other things, or add noise instead."""

from typing import Any

import numpy as np

import normdrop
from normdrop.bench.batch import Array, Batch
from normdrop.bench.protocol import Call

BLOCK_SIZE = 7  # of DropBlock: the paper's


class Relatives:
    """Their passes; what methods take and return is what `gaussian_dropout` does."""

    def _out(self, batch: Batch) -> Array | None:
        """Return the array for the output, or None to let normdrop make it."""
        raise NotImplementedError

    def gaussian_dropout(self, batch: Batch, p: float) -> Call:
        """Prepare dropout by normal factors in training.

        Parameters
        ----------
        batch : Batch
            What it works on.
        p : float
            Probability of dropping, or what stands for it.

        Returns
        -------
        callable
            What is timed.
        """
        return self._drawn(normdrop.GaussianDropout(p, rng=0), batch)

    def gaussian_dropout_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass, which draws the factors again."""
        return self._redrawn(normdrop.GaussianDropout(p, rng=0), batch)

    def gaussian_noise(self, batch: Batch, std: float) -> Call:
        """Prepare the sum with normal noise of a standard deviation."""
        return self._drawn(normdrop.GaussianNoise(std, rng=0), batch)

    def gaussian_noise_backward(self, batch: Batch, std: float) -> Call:
        """Prepare its backward pass, which is a copy."""
        return self._redrawn(normdrop.GaussianNoise(std, rng=0), batch)

    def alpha_dropout(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of elements to the floor of SELU."""
        return self._drawn(normdrop.AlphaDropout(p, rng=0), batch)

    def alpha_dropout_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass."""
        return self._redrawn(normdrop.AlphaDropout(p, rng=0), batch)

    def feature_alpha_dropout(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of channels to the floor of SELU."""
        return self._drawn(normdrop.FeatureAlphaDropout(p, rng=0), batch)

    def feature_alpha_dropout_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass."""
        return self._redrawn(normdrop.FeatureAlphaDropout(p, rng=0), batch)

    def drop_path(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of whole samples."""
        return self._drawn(normdrop.DropPath(p, rng=0), batch)

    def drop_path_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass."""
        return self._redrawn(normdrop.DropPath(p, rng=0), batch)

    def drop_block(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of blocks of images."""
        return self._drawn(normdrop.DropBlock2d(p, BLOCK_SIZE, rng=0), batch)

    def drop_block_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass, which draws the blocks again."""
        return self._redrawn(normdrop.DropBlock2d(p, BLOCK_SIZE, rng=0), batch)

    def varied_channels(self, batch: Batch, p: float) -> Call:
        """Prepare dropout of elements with a p for each channel of axis 1, from 0 to the given one."""
        return self._drawn(_varied_channels(batch, p), batch)

    def varied_channels_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass."""
        return self._redrawn(_varied_channels(batch, p), batch)

    def varied_elements(self, batch: Batch, p: float) -> Call:
        """Prepare dropout with a p for each element, from 0 to the given one."""
        return self._drawn(_varied_elements(batch, p), batch)

    def varied_elements_backward(self, batch: Batch, p: float) -> Call:
        """Prepare its backward pass."""
        return self._redrawn(_varied_elements(batch, p), batch)

    def _drawn(self, layer: Any, batch: Batch) -> Call:
        x, out = batch.x, self._out(batch)
        return lambda: layer(x, out=out)

    def _redrawn(self, layer: Any, batch: Batch) -> Call:
        dy, out = batch.dy, self._out(batch)
        context = layer.forward(batch.x, return_context=True)[1]
        return lambda: layer.backward(dy, context=context, out=out)


def _varied_channels(batch: Batch, p: float) -> Any:
    n_channels, n_after = batch.shape[1], len(batch.shape) - 2
    return normdrop.Dropout(np.linspace(0.0, p, n_channels).reshape(-1, *(1,) * n_after), rng=0)


def _varied_elements(batch: Batch, p: float) -> Any:
    return normdrop.Dropout(p * np.random.default_rng(4).random(batch.shape), rng=0)
