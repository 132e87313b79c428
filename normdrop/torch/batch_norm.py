"""Batch normalization layers of PyTorch, computed by normdrop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch

from normdrop import _checks
from normdrop.functional._steps_of import Activation, activation_of
from normdrop.random import RNG
from normdrop.torch import _operators, _synchronized, functional
from normdrop.torch.dropout import source_of

Tensor: TypeAlias = torch.Tensor


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """What all ranks share."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalize by the batch in training, by the running statistics in inference."""
        return self._fused(input)

    def _fused(self, x: Tensor, **steps: Any) -> Tensor:
        """Normalize, and do the steps that `functional.batch_norm_act` takes, if there are any."""
        self._check_input_dim(x)
        counted = self.training and self.track_running_stats and self.num_batches_tracked is not None
        momentum = 0.0 if self.momentum is None else self.momentum
        if counted and self.momentum is None:
            momentum = 1.0 / (float(self.num_batches_tracked) + 1.0)
        running = self.running_mean, self.running_var
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        if self.training and not self.track_running_stats:
            running = None, None
        y = self._normalized(x, *running, by_batch, momentum, **steps)
        if counted:  # after the pass: one that fails counts not
            self.num_batches_tracked.add_(1)
        return y

    def _normalized(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        by_batch: bool,
        momentum: float,
        **steps: Any,
    ) -> Tensor:
        function = functional.batch_norm_act if steps else functional.batch_norm
        return function(x, running_mean, running_var, self.weight, self.bias, by_batch, momentum, self.eps, **steps)


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, computed by normdrop on the CPU; parameters and state as there.

    `momentum` is PyTorch's, the weight of the **new** value: one minus that of `normdrop.BatchNorm`.

    Parameters
    ----------
    *args, **kwargs : Any
        As for `torch.nn.BatchNorm1d`.

    See Also
    --------
    normdrop.torch.functional.batch_norm : the function.
    normdrop.BatchNorm : the layer for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import BatchNorm1d
    >>> layer = BatchNorm1d(4)
    >>> _ = layer.load_state_dict(torch.nn.BatchNorm1d(4).state_dict())
    >>> layer(torch.randn(8, 4)).shape
    torch.Size([8, 4])
    """


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, for (N, C, H, W); see `BatchNorm1d`.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import BatchNorm2d
    >>> y = BatchNorm2d(4)(torch.randn(8, 4, 3, 3))
    >>> y.shape, bool(y.mean().abs() < 1e-5)
    (torch.Size([8, 4, 3, 3]), True)
    """


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, for (N, C, D, H, W); see `BatchNorm1d`.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import BatchNorm3d
    >>> y = BatchNorm3d(4)(torch.randn(8, 4, 2, 3, 3))
    >>> y.shape, bool(y.mean().abs() < 1e-5)
    (torch.Size([8, 4, 2, 3, 3]), True)
    """


class FusedBatchNorm(_BatchNorm):
    """Normalize each channel, add a residual, apply an activation and drop elements, in one pass over memory.

    The state is that of `torch.nn.BatchNorm1d` to `BatchNorm3d`, which it can be loaded from and into.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float or None, default 0.1
        Weight of the **new** value in the running statistics; ``None`` averages over batches.
    affine, track_running_stats : bool, default True
        Whether there are `weight` and `bias`, and running statistics.
    activation : str or (str, float), default "relu"
        As in `normdrop.functional.act_dropout`: a name, or name and parameter such as ``("leaky_relu", 0.2)``. May be
        changed later through the attribute, as `p`.
    p : float, default 0.0
        Probability of dropping an element in training, from 0 to 1.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one mask element: ``(2, 3)`` drops whole channels of (N, C, H, W).
    generator, rng : optional
        Where the masks come from, as for `Dropout`.
    **kwargs : Any
        As for `torch.nn.BatchNorm1d`: `device`, `dtype`, `bias`.

    Raises
    ------
    TypeError, ValueError
        `activation`, `p` or `shared_axes` is not as above; `generator` and `rng` are both given.

    See Also
    --------
    normdrop.torch.functional.batch_norm_act : the function.
    normdrop.BatchNormAct : the layer for NumPy arrays.

    Notes
    -----
    An input has two axes or more, (N, C, ...). For dropout with running statistics, use a `Dropout` layer after one
    with ``p=0``.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import FusedBatchNorm
    >>> norm = FusedBatchNorm(8, p=0.1)
    >>> h, skip = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    >>> norm(h, skip).shape
    torch.Size([2, 8, 4, 4])
    """

    _check_input_dim = torch.nn.SyncBatchNorm._check_input_dim  # two axes or more

    def __init__(  # noqa: PLR0913  # PyTorch's arguments, and the options of all that is fused by keyword
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        activation: Activation = "relu",
        p: float = 0.0,
        shared_axes: int | Iterable[int] = (),
        generator: torch.Generator | None = None,
        rng: RNG = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **kwargs)
        activation_of(activation)
        self.activation = activation
        self.p = _checks.probability(p)
        self.shared_axes = _checks.axes(shared_axes)
        self.generator, self.stream = source_of(generator, rng)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: A002
        """Compute dropout(activation(BN(input) + residual)); in inference without dropout."""
        drops = {"p": self.p, "generator": self.generator, "rng": self.stream} if self.training else {}
        return self._fused(input, residual=residual, activation=self.activation, shared_axes=self.shared_axes, **drops)

    def extra_repr(self) -> str:
        """Return the options that `repr` shows."""
        more = f", shared_axes={self.shared_axes}" if self.shared_axes else ""
        return f"{super().extra_repr()}, activation={self.activation!r}, p={self.p}{more}"


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, computed by normdrop on the CPU, where PyTorch has none.

    In training, the batch is that of all processes of a group of `torch.distributed`, over gloo for example.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float or None, default 0.1
        Weight of the **new** value in the running statistics; ``None`` averages over batches.
    affine, track_running_stats : bool, default True
        Whether there are `weight` and `bias`, and running statistics.
    process_group : torch.distributed.ProcessGroup, optional
        Whose processes have parts of the batch; by default all.
    **kwargs : Any
        As for `torch.nn.SyncBatchNorm`: `device`, `dtype`, `bias`.

    See Also
    --------
    BatchNorm1d : the same for one process.

    Notes
    -----
    Each process sums its part in float64, and every process merges the sums of all, weighted by their numbers of
    values, in the order of ranks: all have the same statistics to the last bit. A part may be empty.

    Gradients are those of the sum of all processes' losses: in full for the input, and as this process's share for
    `weight` and `bias`. `DistributedDataParallel` divides the sum of the shares by the number of processes, as it does
    for all parameters. So if each loss is the mean over its part and parts are of one size, they are the gradients of
    the mean over the joined batch.

    It is no subclass of `torch.nn.SyncBatchNorm`, because `DistributedDataParallel` refuses those on the CPU. Tensors
    on other devices go to PyTorch's. Gradients of gradients are an error.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import SyncBatchNorm
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
    >>> SyncBatchNorm.convert_sync_batchnorm(model)[1]
    SyncBatchNorm(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    _check_input_dim = torch.nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = torch.nn.SyncBatchNorm._check_non_zero_input_channels

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **kwargs)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalize by the joined batch in training, by the running statistics in inference."""
        return super().forward(input) if input.is_cpu else torch.nn.SyncBatchNorm.forward(self, input)

    def _normalized(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        by_batch: bool,
        momentum: float,
        **steps: Any,
    ) -> Tensor:
        if not self.training or not _synchronized.is_needed(self.process_group):
            return super()._normalized(x, running_mean, running_var, by_batch, momentum, **steps)
        self._check_non_zero_input_channels(x)
        y, statistics, n = _synchronized.batch_norm(x, self.weight, self.bias, self.eps, self.process_group)
        if running_mean is not None and n:
            _operators.update_running(running_mean, running_var, statistics, momentum, n)
        return y

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Replace the layers of batch normalization in a model, as the method of `torch.nn.SyncBatchNorm`.

        Parameters
        ----------
        module : torch.nn.Module
            A model, or one such layer.
        process_group : torch.distributed.ProcessGroup, optional
            Whose processes have parts of the batch; by default all.

        Returns
        -------
        torch.nn.Module
            The model itself, or the new layer. Parameters and buffers are the same objects as before.

        Raises
        ------
        TypeError
            There is a `FusedBatchNorm`, whose activation and dropout would be lost.
        """
        for name, layer in module.named_modules():
            if isinstance(layer, FusedBatchNorm):
                raise TypeError(
                    f"{name or 'module'}: {type(layer).__name__} cannot be synchronized; write BatchNorm2d or another, "
                    "the activation and Dropout as modules, and convert those"
                )
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        for layer in converted.modules():
            if type(layer) is torch.nn.SyncBatchNorm:
                layer.__class__ = cls
        return converted
