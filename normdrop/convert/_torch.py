"""From and to PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import numpy as np

from normdrop import _checks, layers
from normdrop.convert import _common
from normdrop.convert._common import Exported, Given, Policy
from normdrop.layers import BatchNorm, Dropout

_NAMES = ("weight", "bias", "running_mean", "running_var")
_COUNT = "num_batches_tracked"
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
_DROPOUTS = ("Dropout1d", "Dropout2d", "Dropout3d", "Dropout")
_RANKS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
_DEFAULTS = {"eps": 1e-5, "momentum": 0.1}


def from_torch(
    source: Any,
    *,
    prefix: str = "",
    channel_axis: int = 1,
    unbiased: bool = True,
    n: int | None = None,
    **options: Any,
) -> Any:
    """Make a layer of one of PyTorch's, or of its state.

    Parameters
    ----------
    source : torch.nn.Module or mapping
        A `BatchNorm1d`, `2d`, `3d`, `SyncBatchNorm`, `Dropout`, `Dropout1d`, `2d` or `3d`, or one derived from them; or
        the state of one of batch normalization: ``weight``, ``bias``, ``running_mean``, ``running_var``,
        ``num_batches_tracked``, as far as it has them, NumPy arrays or tensors.
    prefix : str, default ""
        What the names of the layer's entries begin with in the state of a model, such as ``"features.1."``.
    channel_axis : int, default 1
        Where the new layer shall have its channels; PyTorch has them on axis 1.
    unbiased : bool, default True
        Whether the new layer's `running_var` averages the unbiased variance, as PyTorch's does.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. Then `num_values` is right, and so
        is `running_var` with ``unbiased=False``, times (n - 1)/n, once the 1 that it began with has been forgotten;
        without, it stays as it is, and so does the output.
    **options : Any
        Beside a state, which lacks them: `eps` (by default 1e-5) and `momentum` (0.1), as PyTorch means it. Further
        arguments of PyTorch's constructor may be given and must agree with the state.

    Returns
    -------
    BatchNorm or Dropout
        New layer, with copies of all arrays, of the same rank where PyTorch's has one. `momentum` is one minus
        PyTorch's, in decimal, so that it comes back as it was. Streams of masks, hooks and gradients stay behind.

    Raises
    ------
    TypeError, ValueError
        There is no such layer, or entries are missing, misshapen or too many. With ``momentum=None``, `n` must be
        given: PyTorch averages batches, a layer here all values, and how many there were, it does not say.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.convert import from_torch
    >>> state = {"running_mean": np.zeros(2, np.float32), "running_var": np.full(2, 4, np.float32)}
    >>> layer = from_torch(state, momentum=0.01)
    >>> layer.momentum, layer.affine, layer.running_var
    (0.99, False, array([4., 4.]))
    """
    policy = Policy(True, _checks.flag(unbiased, "unbiased"), n)
    if isinstance(source, Mapping):
        entries = _below(source, prefix)
        given = _common.given(entries, _NAMES, [_COUNT])
        settings = _common.settings(options, _DEFAULTS, _derived(given))
        return _batch_norm(BatchNorm, given, entries.get(_COUNT), settings, policy, channel_axis)
    _common.no_options(options, source)
    layer: BatchNorm | Dropout
    if dropout := _common.kind_of(source, "torch", _DROPOUTS):
        axes = {} if dropout == "Dropout" else {"channel_axis": channel_axis}
        layer = getattr(layers, dropout)(source.p, **axes)
    elif norm := _common.kind_of(source, "torch", _NORMS):
        entries = {name: getattr(source, name, None) for name in (*_NAMES, _COUNT)}
        given = _common.given(entries, _NAMES, [_COUNT], source.num_features)
        settings = {name: getattr(source, name) for name in _DEFAULTS}
        kind = getattr(layers, norm, BatchNorm)
        layer = _batch_norm(kind, given, entries[_COUNT], settings, policy, channel_axis)
    else:
        raise TypeError(
            f"source must be a layer of batch normalization or dropout of PyTorch, or a state of one; got "
            f"{_checks.kind(source)}"
        )
    return layer.train() if source.training else layer.eval()


def to_torch(layer: BatchNorm | Dropout, *, ndim: int | None = None, n: int | None = None, arrays: bool = False) -> Any:
    """Make a layer of PyTorch, or its state.

    Parameters
    ----------
    layer : BatchNorm or Dropout
        Layer, not fused.
    ndim : int, optional
        Number of axes of its inputs, with the batch axis; needed where its class does not tell PyTorch's.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it, the `running_var` of a
        layer with ``unbiased=False`` becomes that of unbiased variances; without, it stays as it is.
    arrays : bool, default False
        Whether to return arrays, for which PyTorch is not needed.

    Returns
    -------
    torch.nn.Module or Exported
        A layer in the mode of `layer`; or the constructor's arguments, and the state as NumPy arrays. PyTorch has its
        channels on axis 1, wherever `layer` has them, running statistics of the dtype of its parameters, and no layer
        with `bias` alone: it gets a `weight` of ones.

    Raises
    ------
    TypeError, ValueError
        PyTorch has no such layer.

    Examples
    --------
    >>> import normdrop
    >>> from normdrop.convert import to_torch
    >>> options, state = to_torch(normdrop.BatchNorm(2, momentum=0.99), arrays=True)
    >>> options["momentum"], state["running_var"]
    (0.01, array([1., 1.]))
    """
    layer, arrays = _common.checked(layer, "PyTorch"), _checks.flag(arrays, "arrays")
    if isinstance(layer, Dropout):
        name = _common.kind_of(layer, "normdrop", _DROPOUTS)
        if name == "Dropout" and layer.shared_axes:
            raise ValueError(
                f"layer must be a Dropout1d, Dropout2d or Dropout3d to share axes in PyTorch; got shared_axes="
                f"{layer.shared_axes}"
            )
        found = Exported({"p": _common.rate_of(layer, "PyTorch")}, {})
    else:
        name = _common.kind_of(layer, "normdrop", _NORMS) or _RANKS.get(ndim or 0)
        found = _exported(layer, n)
    if arrays:
        return found
    if name is None:
        raise ValueError(f"ndim must be given for a BatchNorm of any rank, from 2 to 5; got {ndim}")
    import torch

    module = getattr(torch.nn, name)(**found.options)
    if isinstance(layer, BatchNorm):
        module.to(getattr(torch, layer.dtype.name))
    module.load_state_dict({key: torch.from_numpy(values) for key, values in found.arrays.items()})
    return module.train(layer.training)


def _batch_norm(
    kind: type[BatchNorm], given: Given, count: Any, settings: Mapping[str, Any], policy: Policy, channel_axis: int
) -> BatchNorm:
    n_batches, n, momentum = 0 if count is None else int(count), policy.n, settings["momentum"]
    if momentum is None and n_batches and n is None:
        raise ValueError(
            "n, the number of values per channel in a batch, must be given with momentum=None: how much a batch weighs "
            "in an average of all values follows from it; or give another momentum to the source first"
        )
    counts = n_batches, 0 if n is None else n_batches * _checks.integer(n, "n", 1)
    options = {"eps": settings["eps"], "momentum": _complement(momentum), "channel_axis": channel_axis}
    return _common.batch_norm(kind, given, policy, counts, **options)


def _exported(layer: BatchNorm, n: int | None) -> Exported:
    state = _common.arrays_of(layer, _NAMES, Policy(layer.unbiased, True, n))
    if layer.shift and not layer.scale:
        state = {"weight": np.ones_like(state["bias"]), **state}
    options = _derived(_common.given(state, _NAMES, (), layer.num_features))
    if options["bias"] == options["affine"]:  # as where it is not said; older PyTorch does not know it
        del options["bias"]
    if layer.track_running_stats:
        state[_COUNT] = np.array(layer.num_batches, np.int64)
    return Exported(options | {"eps": layer.eps, "momentum": _complement(cast("float | None", layer.momentum))}, state)


def _derived(given: Given) -> dict[str, Any]:
    """Return the arguments of PyTorch's constructor that arrays say."""
    return {
        "num_features": given.num_features,
        "affine": given.scale or given.shift,
        "bias": given.shift,
        "track_running_stats": given.tracked,
    }


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries of a layer in the state of a model."""
    found = {str(name)[len(prefix) :]: values for name, values in state.items() if str(name).startswith(prefix)}
    norms = [str(name)[: -len("running_mean")] for name in state if str(name).endswith(".running_mean")]
    if norms and "running_mean" not in found:
        raise ValueError(f"prefix must be that of a layer in source, such as {norms[0]!r}; got {prefix!r}")
    return found


def _complement(momentum: float | None) -> float | None:
    """Return 1 - momentum in decimal: 0.9 for 0.1, and back."""
    return None if momentum is None else float(1 - Decimal(repr(float(momentum))))
