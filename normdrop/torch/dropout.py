"""Dropout layers of PyTorch, computed by normdrop."""

from __future__ import annotations

from typing import Any

import torch

from normdrop import _checks
from normdrop.random import RNG, MaskStream, as_stream
from normdrop.torch import functional


def source_of(generator: torch.Generator | None, rng: RNG) -> tuple[torch.Generator | None, MaskStream | None]:
    """Return what a layer keeps of where its masks come from."""
    if generator is not None and rng is not None:
        raise ValueError("generator and rng are both given; leave out one of them, because a mask comes from one")
    return generator, None if rng is None else as_stream(rng)


class _Dropout(torch.nn.modules.dropout._DropoutNd):
    """What all ranks share. The defaults serve layers whose class was changed by `accelerate`."""

    generator: torch.Generator | None = None
    stream: MaskStream | None = None

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        generator: torch.Generator | None = None,
        rng: RNG = None,
    ) -> None:
        _checks.no_array_of_p(p)
        super().__init__(p, inplace)
        generator, stream = source_of(generator, rng)
        if generator is not None:
            self.generator = generator
        if stream is not None:
            self.stream = stream

    def _options(self) -> dict[str, Any]:
        return {"generator": self.generator, "rng": self.stream}


class Dropout(_Dropout, torch.nn.Dropout):
    """`torch.nn.Dropout`, computed by normdrop on the CPU.

    Parameters
    ----------
    p : float, default 0.5
        Probability of dropping an element.
    inplace : bool, default False
        Whether to write the result to the input.
    generator : torch.Generator, optional
        Where the masks come from, instead of PyTorch's default generator.
    rng : int, SeedSequence, Generator or MaskStream, optional
        The same, of normdrop's kind: masks follow the mask law and are the same in any library, on any machine. They
        are not part of the state dict.

    See Also
    --------
    normdrop.torch.functional.dropout : the function.
    normdrop.Dropout : the layer for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import Dropout
    >>> layer = Dropout(0.5)
    >>> layer
    Dropout(p=0.5, inplace=False)
    >>> _ = torch.manual_seed(0)
    >>> y = layer(torch.ones(8))
    >>> _ = torch.manual_seed(0)
    >>> bool((layer(torch.ones(8)) == y).all())
    True
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Drop elements in training; the input itself in inference."""
        return functional.dropout(input, self.p, self.training, self.inplace, **self._options())


class Dropout1d(_Dropout, torch.nn.Dropout1d):
    """`torch.nn.Dropout1d`: whole channels of (N, C, L) or (C, L); parameters as of `Dropout`.

    See Also
    --------
    normdrop.torch.functional.dropout1d : the function.
    normdrop.Dropout1d : the layer for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import Dropout1d
    >>> y = Dropout1d(0.5, rng=0)(torch.ones(2, 3, 4))
    >>> bool((y == y[:, :, :1]).all())  # of each channel all or nothing
    True
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Drop channels in training; the input itself in inference."""
        return functional.dropout1d(input, self.p, self.training, self.inplace, **self._options())


class Dropout2d(_Dropout, torch.nn.Dropout2d):
    """`torch.nn.Dropout2d`: whole channels of (N, C, H, W); parameters as of `Dropout`.

    See Also
    --------
    normdrop.torch.functional.dropout2d : the function.
    normdrop.Dropout2d : the layer for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import Dropout2d
    >>> y = Dropout2d(0.5, rng=0)(torch.ones(2, 3, 4, 4))
    >>> bool((y == y[:, :, :1, :1]).all())  # of each channel all or nothing
    True
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Drop channels in training; the input itself in inference."""
        return functional.dropout2d(input, self.p, self.training, self.inplace, **self._options())


class Dropout3d(_Dropout, torch.nn.Dropout3d):
    """`torch.nn.Dropout3d`: whole channels of (N, C, D, H, W) or (C, D, H, W); parameters as of `Dropout`.

    See Also
    --------
    normdrop.torch.functional.dropout3d : the function.
    normdrop.Dropout3d : the layer for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import Dropout3d
    >>> y = Dropout3d(0.5, rng=0)(torch.ones(2, 3, 4, 4, 4))
    >>> bool((y == y[:, :, :1, :1, :1]).all())  # of each channel all or nothing
    True
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Drop channels in training; the input itself in inference."""
        return functional.dropout3d(input, self.p, self.training, self.inplace, **self._options())
