"""Swapping the layers of a model for normdrop's and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from normdrop.torch import batch_norm, dropout

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: dropout.Dropout,
    nn.Dropout1d: dropout.Dropout1d,
    nn.Dropout2d: dropout.Dropout2d,
    nn.Dropout3d: dropout.Dropout3d,
    nn.BatchNorm1d: batch_norm.BatchNorm1d,
    nn.BatchNorm2d: batch_norm.BatchNorm2d,
    nn.BatchNorm3d: batch_norm.BatchNorm3d,
    nn.SyncBatchNorm: batch_norm.SyncBatchNorm,
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_RELATED = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class Row(NamedTuple):
    """What was done with a layer."""

    name: str
    """Where it is in the model."""
    layer: str
    """Its class before."""
    outcome: str
    """Its class now, or why it was left."""
    swapped: bool
    """Whether its class was changed."""


class Report(NamedTuple):
    """What was done with a model's layers; prints as a table."""

    rows: tuple[Row, ...]
    """One for each layer of dropout or batch normalization."""

    @property
    def n_swapped(self) -> int:
        """How many layers were swapped."""
        return sum(row.swapped for row in self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "no layers of dropout or batch normalization"
        lines = [("layer", "was", "is"), *((row.name, row.layer, row.outcome) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        return "\n".join(f"{name:<{widths[0]}}  {was:<{widths[1]}}  {now}" for name, was, now in lines)


def accelerate(model: nn.Module) -> Report:
    """Let normdrop compute the dropout and batch normalization of a model, in place.

    The layers stay the same objects and change their class: parameters, buffers, hooks, mode and every reference to
    them stay what they were, so that an optimizer that was made before goes on, and a state dict fits both ways.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or one such layer.

    Returns
    -------
    Report
        Which layers were swapped, and which were left and why. ``print`` shows it as a table.

    Raises
    ------
    TypeError
        `model` is not a module.

    See Also
    --------
    restore : the way back.

    Notes
    -----
    Swapped are layers of exactly PyTorch's classes `Dropout`, `Dropout1d` to `Dropout3d`, `BatchNorm1d` to
    `BatchNorm3d` and `SyncBatchNorm`; a subclass may compute something else and is left.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5))
    >>> print(accelerate(model))
    layer  was          is
    1      BatchNorm1d  normdrop.torch.BatchNorm1d
    2      Dropout      normdrop.torch.Dropout
    >>> restore(model).n_swapped
    2
    """
    return _swapped(model, _OURS)


def restore(model: nn.Module) -> Report:
    """Undo `accelerate`: give the layers of a model PyTorch's classes again, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or one such layer.

    Returns
    -------
    Report
        Which layers were swapped, and which were left and why: those that draw masks from a source of their own, which
        PyTorch's have not.

    Raises
    ------
    TypeError
        `model` is not a module.
    """
    return _swapped(model, _THEIRS)


def _swapped(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> Report:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    return Report(tuple(_rows(model, classes)))


def _rows(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> Iterator[Row]:
    for name, layer in model.named_modules():
        name, before = name or "(model)", _title(type(layer))
        new = classes.get(type(layer))
        reason = _reason_to_leave(layer, new)
        if new is not None and reason is None:
            layer.__class__ = new
            yield Row(name, before, _title(new), swapped=True)
        elif reason is not None:
            yield Row(name, before, f"left: {reason}", swapped=False)


def _title(kind: type) -> str:
    return f"normdrop.torch.{kind.__name__}" if kind in _THEIRS else kind.__name__


def _reason_to_leave(layer: nn.Module, new: type[nn.Module] | None) -> str | None:
    if new is None:
        if isinstance(layer, _RELATED) and type(layer) not in _OURS and type(layer) not in _THEIRS:
            return "not exactly a class that normdrop has"
        inner = getattr(layer, "dropout", 0.0)
        if isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)) and inner:
            return f"its dropout (p={inner}) is within PyTorch's own operator"
        return None
    if new in _THEIRS:
        foreign = {v.device.type for v in (*layer.parameters(False), *layer.buffers(False))} - {"cpu"}
        return f"it is on {', '.join(sorted(foreign))}" if foreign else None
    if getattr(layer, "generator", None) is not None or getattr(layer, "stream", None) is not None:
        return "it draws masks from a generator or stream of its own"
    return None
