"""From and to Keras."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from normdrop import _checks, layers
from normdrop.convert import _common
from normdrop.convert._common import Exported, Given, Policy
from normdrop.layers import BatchNorm, BatchRenorm, Dropout

_NAMES = ("gamma", "beta", "moving_mean", "moving_variance")
_OF_RENORM = ("moving_stddev", "renorm_mean", "renorm_stddev")
_DEFAULTS = {
    "axis": -1, "momentum": 0.99, "epsilon": 1e-3, "renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99
}  # fmt: skip
_DROPOUTS = ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Dropout")


def from_keras(source: Any, *, unbiased: bool = False, n: int | None = None, **options: Any) -> Any:
    """Make a layer of one of Keras's, or of its weights.

    Parameters
    ----------
    source : keras.layers.Layer, mapping or list
        A `BatchNormalization` that has been built, a `Dropout` or a `SpatialDropout1D`, `2D` or `3D`, of Keras 3 or
        tf-keras; or the weights of one of batch normalization, as a mapping with ``gamma``, ``beta``, ``moving_mean``
        and ``moving_variance``, or as the list that ``get_weights()`` returns; with ``renorm=True``, three more.
    unbiased : bool, default False
        Whether the new layer's `running_var` averages the unbiased variance; Keras's averages the biased one.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it and ``unbiased=True``,
        `running_var` becomes that of unbiased variances, times n/(n - 1), once the 1 that it began with has been
        forgotten; without, it stays as it is, and so does the output.
    **options : Any
        Beside weights, which lack them: `axis` (by default -1), `momentum` (0.99), `epsilon` (1e-3), `center` and
        `scale` (True), `renorm` (False), `renorm_clipping` (None) and `renorm_momentum` (0.99).

    Returns
    -------
    BatchNorm, BatchRenorm or Dropout
        New layer, with copies of all weights, in inference mode if Keras's is not trainable. Keras does not count
        batches, so `num_batches` is 0.

    Raises
    ------
    TypeError, ValueError
        There is no such layer, or weights are missing, misshapen or too many; or it renormalizes by other averages than
        it infers by, or between bounds of r that are not ``rmax`` and ``1 / rmax``.

    Notes
    -----
    With ``renorm=True``, the next training step gives the same output. `running_var` then averages variances, where
    Keras averages standard deviations.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.convert import from_keras
    >>> weights = [np.ones(2), np.zeros(2), np.array([3.0, 4.0]), np.ones(2)]
    >>> layer = from_keras(weights)
    >>> layer.channel_axis, layer.momentum, layer.eps, layer.running_mean
    (-1, 0.99, 0.001, array([3., 4.]))
    """
    policy = Policy(False, _checks.flag(unbiased, "unbiased"), n)
    if isinstance(source, (list, tuple)):
        source = _named(source, options)
    if isinstance(source, Mapping):
        given = _common.given(source, _NAMES, _OF_RENORM)
        return _batch_norm(given, _common.settings(options, _DEFAULTS, _derived(given)), policy, source)
    _common.no_options(options, source)
    if dropout := _kind(source, _DROPOUTS):
        return _dropout(source, dropout)
    if not _kind(source, ["BatchNormalization"]):
        raise TypeError(
            f"source must be a layer of batch normalization or dropout of Keras, or weights of one; got "
            f"{_checks.kind(source)}"
        )
    if not source.built:
        raise ValueError("source must have been built, so that it has weights; call it, or its build(shape), first")
    settings = {name: getattr(source, name, default) for name, default in _DEFAULTS.items()}
    weights = {name: _value(getattr(source, name)) for name in (*_NAMES, *(_OF_RENORM if settings["renorm"] else ()))}
    norm = _batch_norm(_common.given(weights, _NAMES, _OF_RENORM), settings, policy, weights)
    return norm if source.trainable else norm.eval()  # as Keras computes one that is frozen


def to_keras(layer: BatchNorm | Dropout, *, ndim: int | None = None, n: int | None = None, arrays: bool = False) -> Any:
    """Make a layer of Keras, or its weights.

    Parameters
    ----------
    layer : BatchNorm, BatchRenorm or Dropout
        Layer, not fused; one of batch normalization has running statistics and a number as `momentum`, and a
        `BatchRenorm` numbers as bounds.
    ndim : int, optional
        Number of axes of its inputs, with the batch axis; needed for a `BatchNorm` or `BatchNorm1d`, which take
        several, and for a `Dropout` with shared axes.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it, the `running_var` of a
        layer with ``unbiased=True`` becomes that of biased variances; without, it stays as it is.
    arrays : bool, default False
        Whether to return arrays, for which Keras is not needed.

    Returns
    -------
    keras.layers.Layer or Exported
        A layer that has been built, its weights of float32, or of float64 as `layer` has; or the constructor's
        arguments and the weights, in the order of ``set_weights``.

    Raises
    ------
    TypeError, ValueError
        Keras has no such layer, or the installed one does not: its first versions cannot renormalize.

    Examples
    --------
    >>> import normdrop
    >>> from normdrop.convert import to_keras
    >>> options, weights = to_keras(normdrop.BatchNorm(2, channel_axis=-1), arrays=True)
    >>> options["epsilon"], list(weights)
    (1e-05, ['gamma', 'beta', 'moving_mean', 'moving_variance'])
    """
    layer, arrays = _common.checked(layer, "Keras", renorm=True), _checks.flag(arrays, "arrays")
    if isinstance(layer, Dropout):
        found = Exported({"rate": _common.rate_of(layer, "Keras"), "noise_shape": _noise_shape(layer, ndim)}, {})
    else:
        found = _exported(layer, n)
    if arrays:
        return found
    if isinstance(layer, Dropout):
        import keras

        return keras.layers.Dropout(**found.options)
    if ndim is None and len(layer._ranks) == 1:
        ndim = layer._ranks[0]
    if ndim is None:
        raise ValueError(
            f"ndim must be given for a {type(layer).__name__}, whose inputs may have several ranks; got None"
        )
    shape: list[int | None] = [None] * _checks.integer(ndim, "ndim", 2)
    shape[_checks.axis(layer.channel_axis, "channel_axis", ndim)] = layer.num_features
    import keras

    if "renorm" in found.options and "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters:
        raise ValueError(
            f"layer must be a BatchNorm, as the installed Keras, {keras.__version__}, cannot renormalize; got a "
            f"{type(layer).__name__}. Update Keras, or pass arrays=True."
        )
    norm = keras.layers.BatchNormalization(dtype=layer.dtype.name, **found.options)
    norm.build(tuple(shape))
    norm.set_weights(list(found.arrays.values()))
    return norm


def _kind(source: object, names: Any) -> str | None:
    packages = "keras", "tf_keras", "tensorflow"
    return next((kind for package in packages if (kind := _common.kind_of(source, package, names))), None)


def _value(variable: Any) -> Any:
    """Return the array or tensor of a variable of Keras 3, or of TensorFlow's, whose `value` is a method."""
    value = getattr(variable, "value", variable)
    return variable.numpy() if callable(value) else value


def _named(weights: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the list of a layer's weights by their names."""
    has = {"gamma": options.get("scale", True), "beta": options.get("center", True)}
    names = [name for name in _NAMES if has.get(name, True)]
    names += _OF_RENORM if options.get("renorm") else ()
    if len(weights) != len(names):
        raise ValueError(
            f"source must have the weights {', '.join(names)}; got {len(weights)}. Say center=False or scale=False "
            "where there is no beta or gamma."
        )
    return dict(zip(names, weights, strict=True))


def _batch_norm(given: Given, settings: Mapping[str, Any], policy: Policy, weights: Mapping[str, Any]) -> BatchNorm:
    if not given.tracked:
        raise ValueError("source must have moving_mean and moving_variance, as all of Keras have; got neither")
    axis = settings["axis"]
    if isinstance(axis, (list, tuple)) and len(axis) == 1:  # as tf-keras keeps it
        axis = axis[0]
    options = {"channel_axis": axis, "momentum": settings["momentum"], "eps": settings["epsilon"]}
    if not settings["renorm"]:
        return _common.batch_norm(BatchNorm, given, policy, (0, 0), **options)
    _check_averages(given, settings, weights)
    return _common.batch_norm(
        BatchRenorm, given, policy, (0, 0), **options | _bounds(settings["renorm_clipping"] or {})
    )


def _bounds(clipping: Mapping[str, Any]) -> dict[str, float]:
    """Return the bounds of r and d; those that Keras has not are infinite."""
    r_max, r_min, d_max = (clipping.get(name) for name in ("rmax", "rmin", "dmax"))
    least, most = 0.0 if r_min is None else float(r_min), math.inf if r_max is None else float(r_max)
    if most <= 0.0 or not math.isclose(least, 1.0 / most, rel_tol=1e-6):
        raise ValueError(
            f"renorm_clipping must have rmin = 1 / rmax, or neither, as a BatchRenorm has; got {dict(clipping)}. Set "
            "it so first, or pass the weights by name, for a BatchNorm of the same output in inference"
        )
    return {"r_max": most, "d_max": math.inf if d_max is None else float(d_max)}


def _check_averages(given: Given, settings: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Check that what corrects a batch in training is what inference normalizes by: a BatchRenorm has one of both."""
    momentum, own = settings["momentum"], given.arrays
    if settings["renorm_momentum"] != momentum:
        raise ValueError(
            f"renorm_momentum must be momentum, {momentum}, as a BatchRenorm has one for both averages; got "
            f"{settings['renorm_momentum']}. Set it so first, if its training may be another one."
        )
    std = np.sqrt(own["running_var"].astype(np.float64) + settings["epsilon"])
    for name, average in (("renorm_mean", own["running_mean"]), ("renorm_stddev", std), ("moving_stddev", std)):
        if weights.get(name) is None:
            continue
        values = _common.array(weights[name], name).astype(np.float64)
        if values.shape != std.shape or not (abs(values - average) <= 1e-3 * std + 1e-6 * abs(average)).all():
            raise ValueError(
                f"{name} must be {average}, by moving_mean and moving_variance, as a BatchRenorm has one average for "
                f"training and inference; got {values}. Assign that to it first, if its training may be another one."
            )


def _dropout(source: Any, kind: str) -> Dropout:
    if kind == "Dropout":
        shape = source.noise_shape or ()
        return Dropout(source.rate, shared_axes=[axis for axis, size in enumerate(shape) if size == 1])
    first = getattr(source, "data_format", "channels_last") == "channels_first"
    return getattr(layers, f"Dropout{kind[-2]}d")(source.rate, channel_axis=1 if first else -1)  # type: ignore[no-any-return]


def _noise_shape(layer: Dropout, ndim: int | None) -> tuple[int | None, ...] | None:
    if not layer.shared_axes:
        return None
    if ndim is None:
        ndim = getattr(layer, "_ndim", None)
    if ndim is None:
        raise ValueError(f"ndim must be given for a Dropout with shared_axes={layer.shared_axes}; got None")
    shared = {_checks.axis(axis, "shared_axes", ndim) for axis in layer.shared_axes}
    return tuple(1 if axis in shared else None for axis in range(ndim))


def _exported(layer: BatchNorm, n: int | None) -> Exported:
    if not layer.track_running_stats:
        raise ValueError("layer must have running statistics, as all of Keras have; got track_running_stats=False")
    options = {"axis": layer.channel_axis, "momentum": _common.momentum_of(layer, "Keras"), "epsilon": layer.eps}
    weights = _common.arrays_of(layer, _NAMES, Policy(layer.unbiased, False, n))
    options |= {"center": layer.shift, "scale": layer.scale}
    return Exported(options, weights) if not isinstance(layer, BatchRenorm) else _renormalizing(layer, options, weights)


def _renormalizing(layer: BatchRenorm, options: dict[str, Any], weights: dict[str, Any]) -> Exported:
    """Return what Keras has more where it renormalizes."""
    for name in ("r_max", "d_max"):
        if callable(getattr(layer, name)):
            raise ValueError(f"layer.{name} must be a number, as Keras's bounds do not change; got a function")
    r_max, d_max = (cast(float, bound) for bound in (layer.r_max, layer.d_max))
    clipping = {"rmax": r_max, "rmin": 1.0 / r_max} if r_max < math.inf else {}
    clipping |= {"dmax": d_max} if d_max < math.inf else {}
    std = np.sqrt(weights["moving_variance"] + layer.eps)
    more = dict(zip(_OF_RENORM, (std, weights["moving_mean"].copy(), std.copy()), strict=True))
    how = {"renorm": True, "renorm_clipping": clipping, "renorm_momentum": options["momentum"]}
    return Exported(options | how, weights | more)


def _derived(given: Given) -> dict[str, Any]:
    return {"center": given.shift, "scale": given.scale}
