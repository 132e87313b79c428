"""From and to Flax, its layers of linen and of nnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normdrop import _checks
from normdrop.convert import _common
from normdrop.convert._common import Exported, Given, Policy
from normdrop.layers import BatchNorm, Dropout

_NAMES = ("scale", "bias", "mean", "var")
_DEFAULTS = {"axis": -1, "momentum": 0.99, "epsilon": 1e-5}


def from_flax(source: Any, *, name: str = "", unbiased: bool = False, n: int | None = None, **options: Any) -> Any:
    """Make a layer of one of Flax's, or of its variables.

    Parameters
    ----------
    source : mapping, nnx.BatchNorm, nnx.Dropout or linen.Dropout
        The variables of a `linen.BatchNorm`: ``params`` with ``scale`` and ``bias``, ``batch_stats`` with ``mean`` and
        ``var``, or these four alone, as NumPy or JAX arrays; or a layer that has its variables itself, or none.
    name : str, default ""
        Where the layer is in the variables of a model, such as ``"encoder/BatchNorm_0"``.
    unbiased : bool, default False
        Whether the new layer's `running_var` averages the unbiased variance; Flax's averages the biased one.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it and ``unbiased=True``,
        `running_var` becomes that of unbiased variances, times n/(n - 1), once the 1 that it began with has been
        forgotten; without, it stays as it is, and so does the output.
    **options : Any
        Beside variables, which lack them: `axis` (by default -1), `momentum` (0.99), `epsilon` (1e-5), `use_scale` and
        `use_bias` (True).

    Returns
    -------
    BatchNorm or Dropout
        New layer, with copies of all arrays; Flax does not count batches, so `num_batches` is 0.

    Raises
    ------
    TypeError, ValueError
        There is no such layer, or variables are missing, misshapen or too many.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.convert import from_flax
    >>> variables = {
    ...     "params": {"norm": {"scale": np.ones(2), "bias": np.zeros(2)}},
    ...     "batch_stats": {"norm": {"mean": np.array([3.0, 4.0]), "var": np.ones(2)}},
    ... }
    >>> layer = from_flax(variables, name="norm")
    >>> layer.channel_axis, layer.momentum, layer.running_mean
    (-1, 0.99, array([3., 4.]))
    """
    policy = Policy(False, _checks.flag(unbiased, "unbiased"), n)
    if isinstance(source, Mapping):
        given = _common.given(_flat(source, name), _NAMES)
        return _batch_norm(given, _common.settings(options, _DEFAULTS, _derived(given)), policy)
    _common.no_options(options, source)
    if _common.kind_of(source, "flax", ["Dropout"]):
        layer = Dropout(source.rate, shared_axes=source.broadcast_dims)
        return layer.eval() if source.deterministic else layer
    if not _common.kind_of(source, "flax", ["BatchNorm"]) or not hasattr(source, "mean"):
        raise TypeError(
            "source must be the variables of a layer of Flax, a layer of nnx, or a Dropout; got "
            f"{_checks.kind(source)}. A linen.BatchNorm has no variables: pass those, and its options."
        )
    given = _common.given({name: getattr(source, name) for name in _NAMES}, _NAMES)
    norm = _batch_norm(given, {name: getattr(source, name) for name in _DEFAULTS}, policy)
    return norm.eval() if source.use_running_average else norm


def to_flax(layer: BatchNorm | Dropout, *, n: int | None = None) -> Exported:
    """Return the options and variables of a layer of linen; Flax is not needed.

    Parameters
    ----------
    layer : BatchNorm or Dropout
        Layer, not fused; one of batch normalization has running statistics and a number as `momentum`.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it, the `running_var` of a
        layer with ``unbiased=True`` becomes that of biased variances; without, it stays as it is.

    Returns
    -------
    Exported
        ``linen.BatchNorm(**options)`` or ``linen.Dropout(**options)``, and the variables to apply it with.

    Raises
    ------
    TypeError, ValueError
        Flax has no such layer.

    Examples
    --------
    >>> import normdrop
    >>> from normdrop.convert import to_flax
    >>> options, variables = to_flax(normdrop.BatchNorm(2, channel_axis=-1))
    >>> options["momentum"], list(variables["batch_stats"])
    (0.9, ['mean', 'var'])
    """
    layer = _common.checked(layer, "Flax")
    if isinstance(layer, Dropout):
        return Exported({"rate": _common.rate_of(layer, "Flax"), "broadcast_dims": layer.shared_axes}, {})
    if not layer.track_running_stats:
        raise ValueError("layer must have running statistics, as all of Flax have; got track_running_stats=False")
    options = {"axis": layer.channel_axis, "momentum": _common.momentum_of(layer, "Flax"), "epsilon": layer.eps}
    arrays = _common.arrays_of(layer, _NAMES, Policy(layer.unbiased, False, n))
    params = {name: arrays[name] for name in _NAMES[:2] if name in arrays}
    variables = {"params": params, "batch_stats": {name: arrays[name] for name in _NAMES[2:]}}
    return Exported(options | {"use_scale": layer.scale, "use_bias": layer.shift}, variables)


def _flat(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the variables of one layer without the names of their collections."""
    found: dict[str, Any] = {}
    for values in [variables[c] for c in ("params", "batch_stats") if c in variables] or [variables]:
        for part in filter(None, name.split("/")):
            values = values.get(part) if isinstance(values, Mapping) else None
        found |= values if isinstance(values, Mapping) else {}
    if not any(key in found for key in _NAMES):
        layers = ", ".join(repr(key) for key in found) or "none"
        raise ValueError(
            f"name must be where the layer is in source, such as 'BatchNorm_0'; got {name!r}: in it, {layers}"
        )
    return found


def _batch_norm(given: Given, settings: Mapping[str, Any], policy: Policy) -> BatchNorm:
    if not given.tracked:
        raise ValueError("source must have mean and var, as all of Flax have; got neither. They are in batch_stats.")
    axis = settings["axis"]
    if not isinstance(axis, int):
        if len(axis) != 1:
            raise ValueError(f"axis must be one axis; got {axis}")
        axis = axis[0]
    options = {"channel_axis": axis, "momentum": settings["momentum"], "eps": settings["epsilon"]}
    return _common.batch_norm(BatchNorm, given, policy, (0, 0), **options)


def _derived(given: Given) -> dict[str, Any]:
    return {"use_bias": given.shift, "use_scale": given.scale}
