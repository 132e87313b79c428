"""Swapping the layers of a model for normdrop's and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from normdrop.torch import _sequential, batch_norm, dropout

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
    fused_with: tuple[str, ...] = ()
    """The modules beside it that are computed in its pass, as the report is made."""


class Report(NamedTuple):
    """What was done with a model's layers; prints as a table.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import accelerate
    >>> report = accelerate(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5)))
    >>> report.n_swapped, report.n_fused, report.rows[0].layer
    (1, 0, 'Dropout')
    """

    rows: tuple[Row, ...]
    """One for each layer of dropout or batch normalization."""

    @property
    def n_swapped(self) -> int:
        """How many layers were swapped."""
        return sum(row.swapped for row in self.rows)

    @property
    def n_fused(self) -> int:
        """How many layers of batch normalization are fused with what follows them."""
        return sum(bool(row.fused_with) for row in self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "no layers of dropout or batch normalization"
        lines = [("layer", "was", "is"), *((row.name, row.layer, row.outcome) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        return "\n".join(f"{name:<{widths[0]}}  {was:<{widths[1]}}  {now}" for name, was, now in lines)


def accelerate(model: nn.Module, *, fuse: bool = True) -> Report:
    """Let normdrop compute the dropout and batch normalization of a model, in place.

    The layers stay the same objects and change their class: parameters, buffers, hooks, mode and every reference to
    them stay what they were, so that an optimizer that was made before goes on, and a state dict fits both ways.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or one such layer.
    fuse : bool, default True
        Whether batch normalization, an activation and dropout that follow each other in a `torch.nn.Sequential` become
        one pass over memory, forward and backward.

    Returns
    -------
    Report
        Which layers were swapped and fused, and which were not and why. ``print`` shows it as a table.

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

    To fuse, the class of the container is changed, too. Its layers stay in it, and what goes together is decided at
    each call: a layer with hooks is called by itself, and so is a dropout layer in inference. Batches of less than
    1 MiB, of rows and channels last 8 MiB, are left to the layers, which are faster there. A container is one whose
    ``forward`` is that of `torch.nn.Sequential`. For a residual sum, write `FusedBatchNorm`.

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import accelerate, restore
    >>> layers = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5)
    >>> model = torch.nn.Sequential(*layers)
    >>> print(accelerate(model))
    layer  was          is
    1      BatchNorm1d  normdrop.torch.BatchNorm1d, fused with 2, 3
    3      Dropout      normdrop.torch.Dropout
    >>> restore(model).n_swapped
    2
    """
    rows = _swapped(model, _OURS)
    return Report(tuple(_noted(model, rows) if fuse else rows.values()))


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

    Examples
    --------
    >>> import torch
    >>> from normdrop.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5))
    >>> _ = accelerate(model)
    >>> print(restore(model))
    layer  was                     is
    1      normdrop.torch.Dropout  Dropout
    >>> type(model[1]) is torch.nn.Dropout
    True
    """
    rows = _swapped(model, _THEIRS)
    for container in model.modules():
        if isinstance(container, _sequential.Fusing):
            container.__class__ = _sequential.plain(type(container))
    return Report(tuple(rows.values()))


def _swapped(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> dict[str, Row]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    return {row.name: row for row in _rows(model, classes)}


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


def _noted(model: nn.Module, rows: dict[str, Row]) -> Iterator[Row]:
    """Fuse what can be, and note it in the rows."""
    notes = dict(_fused(model))
    for name, layer in model.named_modules():
        row, note = rows.get(name or "(model)"), notes.get(layer)
        if note is not None:
            row = row or Row(name, _title(type(layer)), _title(type(layer)), swapped=False)
            row = row._replace(outcome=f"{row.outcome}, {note[0]}", fused_with=note[1])
        if row is not None:
            yield row


def _fused(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, tuple[str, ...]]]]:
    """Change the classes of containers, and give for each layer of batch normalization what it goes with."""
    for container in model.modules():
        if not isinstance(container, _sequential.Fusing) and not _sequential.can_fuse(type(container)):
            continue
        names, modules = zip(*container._modules.items(), strict=True) if len(container) else ((), ())
        runs = [_sequential.run_at(modules, i) for i in range(len(modules))]
        if not isinstance(container, _sequential.Fusing) and any(len(run) > 1 for run in runs):
            container.__class__ = _sequential.fusing(type(container))
        for i, run in enumerate(runs):
            if len(run) > 1:
                yield run[0], _note(names[i : i + len(run)], run)
            elif i + 1 < len(modules) and _sequential.is_left_for_speed(run[0], modules[i + 1]):
                yield (
                    run[0],
                    (f"not fused with {names[i + 1]}: {type(modules[i + 1]).__name__} is faster by itself", ()),
                )


def _note(names: tuple[str, ...], run: list[nn.Module]) -> tuple[str, tuple[str, ...]]:
    """Say what is fused, and what is not and why."""
    n_free, reason = _sequential.n_free(run), "has hooks or a forward of its own"
    fused_with, rest = names[1:n_free], names[n_free:]
    if not fused_with:
        return f"not fused: {rest[0]} {reason}", ()
    note = f"fused with {', '.join(fused_with)}"
    return note + (f"; not with {rest[0]}: it {reason}" if rest else ""), fused_with


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
