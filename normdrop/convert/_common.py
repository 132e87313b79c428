"""What the libraries share: arrays by other names, options that agree with them, and the two kinds of variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks, _device
from normdrop.layers import (
    BatchNorm,
    BatchNormAct,
    BatchRenorm,
    ConditionalBatchNorm,
    Dropout,
    DropPath,
    GhostBatchNorm,
)

Array: TypeAlias = npt.NDArray[Any]

_OURS = ("gamma", "beta", "running_mean", "running_var")


class Exported(NamedTuple):
    """A layer in the words of another library.

    Examples
    --------
    >>> import normdrop
    >>> from normdrop.convert import to_keras
    >>> exported = to_keras(normdrop.BatchNorm(2, channel_axis=-1), arrays=True)
    >>> exported.options["momentum"], exported.arrays["moving_mean"]
    (0.9, array([0., 0.]))
    """

    options: dict[str, Any]
    """Arguments of the library's constructor."""
    arrays: dict[str, Any]
    """The layer's arrays, copies, by the library's names."""


class Given(NamedTuple):
    """Arrays of a batch normalization by our names, as far as it has them."""

    num_features: int
    arrays: dict[str, Array]

    @property
    def scale(self) -> bool:
        return "gamma" in self.arrays

    @property
    def shift(self) -> bool:
        return "beta" in self.arrays

    @property
    def tracked(self) -> bool:
        return "running_var" in self.arrays


class Policy(NamedTuple):
    """Which variance was averaged, which one is wanted, and the values per channel of each batch, where known."""

    was_unbiased: bool
    unbiased: bool
    n: int | None

    def converted(self, var: Array) -> Array:
        if self.n is None or self.was_unbiased == self.unbiased:
            return var
        n = _checks.integer(self.n, "n", 2)
        return var * ((n - 1) / n if self.was_unbiased else n / (n - 1))


def kind_of(source: object, package: str, names: Sequence[str]) -> str | None:
    """Return which of these classes of a package `source` is of, by their names: nothing is imported for that."""
    for cls in type(source).__mro__:
        if cls.__module__.partition(".")[0] == package and cls.__name__ in names:
            return cls.__name__
    return None


def array(values: Any, name: str) -> Array:
    """Return floats of any library as an array of their dtype on the host."""
    if hasattr(values, "detach"):  # a tensor of PyTorch, which NumPy takes only without gradients, and not as bfloat16
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    result: Array = np.asarray(values)
    if result.dtype.char not in "fde" and not _checks.is_bfloat16(result.dtype):
        raise TypeError(f"{name} must be an array of floats; got {_checks.kind(values)} of dtype {result.dtype}")
    return result


def given(
    source: Mapping[str, Any], theirs: Sequence[str], others: Sequence[str] = (), num_features: int | None = None
) -> Given:
    """Return the arrays of a mapping, checked.

    `theirs` are its names for gamma, beta and the running statistics, some of which may be missing or None; `others`
    are further names that it may have. Without `num_features`, there must be an array that says it.
    """
    found = {name: array(source[name], name) for name in theirs if source.get(name) is not None}
    if not {*source} <= {*theirs, *others} or (num_features is None and not found):
        raise ValueError(
            f"source must have the entries {', '.join(map(repr, theirs))}, as far as the layer has them, and no "
            f"others; got {', '.join(map(repr, source)) or 'none'}"
        )
    n = next(iter(found.values())).size if num_features is None else num_features
    for name, values in found.items():
        if values.shape != (n,):
            raise ValueError(f"{name} must have shape ({n},), one value per channel; got {values.shape}")
    mean, var = theirs[2:]
    if (mean in found) != (var in found):
        raise ValueError(f"source must have both {mean!r} and {var!r}, or neither; got {', '.join(map(repr, found))}")
    if var in found:
        _checks.not_negative(found[var], var)
    return Given(n, {ours: found[name] for ours, name in zip(_OURS, theirs, strict=True) if name in found})


def settings(options: Mapping[str, Any], defaults: Mapping[str, Any], derived: Mapping[str, Any]) -> dict[str, Any]:
    """Return options over defaults, after checking that the others agree with what was derived from arrays."""
    for name, value in options.items():
        if name not in defaults and name not in derived:
            raise TypeError(f"options must be of {', '.join(map(repr, (*defaults, *derived)))}; got {name!r}")
        if name in derived and value != derived[name]:
            raise ValueError(f"{name} must be {derived[name]}, as the arrays say; got {value!r}")
    return {name: options.get(name, value) for name, value in defaults.items()}


def no_options(options: Mapping[str, Any], source: object) -> None:
    """Refuse options beside a layer."""
    if options:
        raise TypeError(f"{next(iter(options))} must not be given: {_checks.kind(source)} has options of its own")


def batch_norm(
    kind: type[BatchNorm], source: Given, policy: Policy, counts: Sequence[int], **options: Any
) -> BatchNorm:
    """Return a layer with these arrays, after so many batches and values."""
    arrays = dict(source.arrays)
    if source.tracked:
        arrays["running_var"] = policy.converted(arrays["running_var"].astype(np.float64))
    is_double = any(arrays[name].dtype == np.float64 for name in ("gamma", "beta") if name in arrays)
    layer = kind(
        source.num_features,
        scale=source.scale,
        shift=source.shift,
        track_running_stats=source.tracked,
        unbiased=policy.unbiased,
        dtype=np.float64 if is_double else np.float32,
        **options,
    )
    state = {name: values.astype(np.float64) for name, values in arrays.items()}
    layer.load_state_dict(state | {"num_batches": np.array(counts[0]), "num_values": np.array(counts[1])})
    return layer


def checked(layer: object, library: str, *, renorm: bool = False) -> BatchNorm | Dropout:
    """Return a layer after checking that it is one that other libraries have; `renorm`: this one renormalizes, too."""
    if isinstance(layer, BatchNormAct):
        raise TypeError(f"layer must not be fused, which {library} has no layer for; got {_checks.kind(layer)}")
    if not isinstance(layer, (BatchNorm, Dropout)):
        raise TypeError(f"layer must be a BatchNorm or a Dropout of normdrop; got {_checks.kind(layer)}")
    if isinstance(layer, (ConditionalBatchNorm, GhostBatchNorm)) or (isinstance(layer, BatchRenorm) and not renorm):
        raise TypeError(
            f"layer must be a plain BatchNorm, as {library} trains its own way; got {_checks.kind(layer)}. For "
            "inference, make a BatchNorm and let it load_state_dict(layer.state_dict())."
        )
    if isinstance(layer, BatchNorm):
        _check_policy(layer, library)
    if isinstance(layer, DropPath):
        raise TypeError(
            f"layer must not be a DropPath, which {library} has no layer for; write the residual block there instead"
        )
    if isinstance(layer, Dropout) and layer.scaling != "inverted":
        raise ValueError(f"layer must have scaling='inverted', as all of {library} have; got {layer.scaling!r}")
    return layer


def _check_policy(layer: BatchNorm, library: str) -> None:
    """Check that the running statistics follow batches in a way that can be told to other libraries."""
    for name, value, remedy in (
        ("frozen", layer.frozen, "call layer.unfreeze() first, and freeze what comes of it"),
        ("debias", layer.debias, "set layer.debias = False first; the average then goes on with its momentum alone"),
        ("momentum", layer.momentum == "population", "set layer.momentum to a number first"),
        ("channel_axis", isinstance(layer.channel_axis, tuple), "make a layer with one, on arrays of another shape"),
    ):
        if value:
            raise ValueError(
                f"layer.{name} must not be {getattr(layer, name)!r}, which {library} does not know; {remedy}"
            )


def momentum_of(layer: BatchNorm, library: str) -> float:
    """Return the weight of the old value, which libraries without a cumulative average need."""
    if not isinstance(layer.momentum, float):
        raise ValueError(
            f"layer.momentum must be a number, as {library} has no average of all values; got {layer.momentum!r}"
        )
    return layer.momentum


def arrays_of(layer: BatchNorm, theirs: Sequence[str], policy: Policy) -> dict[str, Array]:
    """Return copies of a layer's arrays on the host, by their names."""
    own = {name: vars(layer)[ours] for ours, name in zip(_OURS, theirs, strict=True)}
    found = {name: _device.to_host(values) for name, values in own.items() if values is not None}
    if theirs[3] in found:
        found[theirs[3]] = policy.converted(found[theirs[3]])
    return found


def rate_of(layer: Dropout, library: str) -> float:
    """Return the p of a layer that the library has, too: one number."""
    if not isinstance(layer.p, float):
        raise ValueError(
            f"layer must have one number as p, as {library} has; got {_checks.kind(layer.p)}. Set layer.p to a number."
        )
    return layer.p
