"""From and to the operators of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from normdrop import _checks
from normdrop.convert import _common
from normdrop.convert._common import Array, Exported, Policy
from normdrop.layers import BatchNorm, Dropout

_NAMES = ("scale", "B", "input_mean", "input_var")
_DEFAULTS = {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0}
_FLOAT, _INT = 1, 2  # of AttributeProto.type


def from_onnx(
    source: Any, initializers: Any = None, *, unbiased: bool = False, n: int | None = None, **options: Any
) -> Any:
    """Make a layer of a node of ONNX, or of its inputs.

    Parameters
    ----------
    source : onnx.NodeProto or mapping
        A node ``BatchNormalization`` or ``Dropout`` of any opset; or the inputs of one of batch normalization:
        ``scale``, ``B``, ``input_mean``, ``input_var``.
    initializers : mapping, onnx.GraphProto or onnx.ModelProto, optional
        Where a node's inputs are: arrays or tensors by name, or what the node is from.
    unbiased : bool, default False
        Whether the new layer's `running_var` averages the unbiased variance; that of ONNX is biased.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it and ``unbiased=True``,
        `running_var` becomes that of unbiased variances, times n/(n - 1), once the 1 that it began with has been
        forgotten; without, it stays as it is, and so does the output.
    **options : Any
        Beside inputs, which lack them: `epsilon` (by default 1e-5), `momentum` (0.9), `training_mode` (0).

    Returns
    -------
    BatchNorm or Dropout
        New layer, with copies of all arrays, in training mode if the node is. A node's numbers are float32: they become
        the decimal numbers that were meant, such as 0.9.

    Raises
    ------
    TypeError, ValueError
        There is no such layer, or inputs are missing, misshapen, too many, or computed by other nodes.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop.convert import from_onnx
    >>> inputs = {"scale": np.ones(2), "B": np.zeros(2), "input_mean": np.array([3.0, 4.0]), "input_var": np.ones(2)}
    >>> layer = from_onnx(inputs)
    >>> layer.momentum, layer.training, layer.running_mean
    (0.9, False, array([3., 4.]))
    """
    policy = Policy(False, _checks.flag(unbiased, "unbiased"), n)
    if isinstance(source, Mapping):
        return _batch_norm(source, _common.settings(options, _DEFAULTS, {}), policy)
    _common.no_options(options, source)
    kind = getattr(source, "op_type", None)
    if kind not in ("BatchNormalization", "Dropout"):
        raise TypeError(
            "source must be a node BatchNormalization or Dropout of ONNX, or the inputs of one; got "
            f"{kind or _checks.kind(source)}"
        )
    attributes, inputs = _attributes(source), _Inputs(source, initializers)
    if kind == "BatchNormalization":
        if not attributes.pop("spatial", 1):
            raise ValueError("source must have one scale per channel; got spatial=0, as until opset 8")
        known = {name: value for name, value in attributes.items() if name in _DEFAULTS}
        vectors = {name: inputs.required(i, name) for i, name in enumerate(_NAMES, 1)}
        return _batch_norm(vectors, _DEFAULTS | known, policy)
    ratio = inputs.number(1, attributes.get("ratio", 0.5))
    layer = Dropout(ratio)
    return layer if inputs.number(2, 0) else layer.eval()


def to_onnx(layer: BatchNorm | Dropout, *, n: int | None = None) -> Exported:
    """Return the attributes and further inputs of a node of ONNX; the package is not needed.

    Parameters
    ----------
    layer : BatchNorm or Dropout
        Layer, not fused, without shared axes; one of batch normalization has its channels on axis 1, running statistics
        and a number as `momentum`.
    n : int, optional
        Number of values per channel in each batch so far, if it was always the same. With it, the `running_var` of a
        layer with ``unbiased=True`` becomes that of biased variances; without, it stays as it is.

    Returns
    -------
    Exported
        Attributes, and inputs in their order, to follow the first one. ONNX has no such node without scale or ``B``:
        they are then ones and zeros. Those of inference, whatever the layer's mode.

    Raises
    ------
    TypeError, ValueError
        ONNX has no such node.

    Examples
    --------
    >>> import normdrop
    >>> from normdrop.convert import to_onnx
    >>> attributes, inputs = to_onnx(normdrop.BatchNorm(2))
    >>> attributes, list(inputs)
    ({'epsilon': 1e-05, 'momentum': 0.9}, ['scale', 'B', 'input_mean', 'input_var'])
    """
    layer = _common.checked(layer, "ONNX")
    if isinstance(layer, Dropout):
        if layer.shared_axes:
            raise ValueError(f"layer must drop elements, as ONNX does; got shared_axes={layer.shared_axes}")
        return Exported({}, {"ratio": np.array(_common.rate_of(layer, "ONNX"), np.float32)})
    if layer.channel_axis != 1:
        raise ValueError(f"layer must have its channels on axis 1, as ONNX does; got {layer.channel_axis}")
    if not layer.track_running_stats:
        raise ValueError("layer must have running statistics, as all of ONNX have; got track_running_stats=False")
    arrays = _common.arrays_of(layer, _NAMES, Policy(layer.unbiased, False, n))
    filled = {
        name: np.full(layer.num_features, value, layer.dtype) for name, value in (("scale", 1), ("B", 0))
    } | arrays
    return Exported({"epsilon": layer.eps, "momentum": _common.momentum_of(layer, "ONNX")}, filled)


def _batch_norm(inputs: Mapping[str, Any], settings: Mapping[str, Any], policy: Policy) -> BatchNorm:
    given = _common.given(inputs, _NAMES)
    if len(given.arrays) < len(_NAMES):
        raise ValueError(f"source must have the inputs {', '.join(_NAMES)}; got {', '.join(inputs)}")
    layer = _common.batch_norm(BatchNorm, given, policy, (0, 0), eps=settings["epsilon"], momentum=settings["momentum"])
    return layer if settings["training_mode"] else layer.eval()


def _attributes(node: Any) -> dict[str, Any]:
    """Return the numbers among a node's attributes."""
    found = {a.name: a.f if a.type == _FLOAT else a.i for a in node.attribute if a.type in (_FLOAT, _INT)}
    return {name: _decimal(value) if isinstance(value, float) else value for name, value in found.items()}


def _decimal(value: Any) -> float:
    """Return the shortest decimal number that float32 holds so."""
    return float(str(np.float32(value)))


class _Inputs:
    """The inputs of a node that are given by constants."""

    def __init__(self, node: Any, initializers: Any) -> None:
        self._names = list(node.input)
        graph = getattr(initializers, "graph", initializers)
        tensors = getattr(graph, "initializer", None)
        self._values = {t.name: t for t in tensors} if tensors is not None else {} if graph is None else dict(graph)

    def _get(self, place: int, what: str) -> Array | None:
        name = self._names[place] if place < len(self._names) else ""
        if not name:
            return None
        if name not in self._values:
            raise ValueError(
                f"initializers must have the {what} of source, {name!r}, as an array; got "
                f"{', '.join(map(repr, self._values)) or 'none'}"
            )
        values = self._values[name]
        if hasattr(values, "raw_data"):  # a TensorProto
            from onnx import numpy_helper

            values = numpy_helper.to_array(values)
        return np.asarray(values)

    def required(self, place: int, what: str) -> Array:
        values = self._get(place, what)
        if values is None:
            raise ValueError(f"source must have an input {what}; got {len(self._names)} inputs")
        return values

    def number(self, place: int, default: float) -> float:
        """Return an optional input of one number."""
        values = self._get(place, f"input {place}")
        return default if values is None else _decimal(values.item()) if values.dtype.kind == "f" else values.item()
