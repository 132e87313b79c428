"""Dropout on, everything else in inference, and all as it was afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeVar

import numpy as np

from normdrop import _advice, _checks
from normdrop.layers import Layer

T = TypeVar("T")

_LEAVES = (str, bytes, bytearray, int, float, complex, np.ndarray, np.generic, type, ModuleType, FunctionType)
_MODES = ("training", "sampling", "_counts")  # of those that a layer has
_NO_PASSES = None, 0, False


@contextmanager
def sampling(model: T) -> Iterator[T]:
    """Leave dropout on, and nothing else: all other layers are in inference until the block ends.

    In it, every pass draws new masks, and batch normalization uses its running statistics and does not change them.

    Parameters
    ----------
    model : object
        A layer; a list, tuple, set or dict; an object whose attributes hold layers, also in ``__slots__``; nested in
        any way. Of PyTorch, a module: its layers of dropout are on.

    Yields
    ------
    object
        `model`.

    Raises
    ------
    ValueError
        No layer of dropout is in `model`, so that all passes would be the same.

    See Also
    --------
    mc_predict : mean and spread of many such passes.

    Notes
    -----
    However the block ends, every layer that was in `model` when it began is in the mode that it was in then. Passes of
    the block that wait for backward when it ends are forgotten; those that waited before it wait on. Blocks nest. Modes
    belong to layers: they hold for all threads.

    A `BatchNormAct` drops with running statistics, by its attribute `sampling`. Objects that are neither layers of
    normdrop nor modules of PyTorch keep their modes.

    References
    ----------
    .. [1] Y. Gal and Z. Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep
       learning", ICML 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> norm, drop = normdrop.BatchNorm(3), normdrop.Dropout(0.5, rng=0)
    >>> with normdrop.sampling([norm, drop]):
    ...     norm.training, drop.training
    (False, True)
    >>> norm.training, drop.training
    (True, True)
    """
    layers = layers_of(model)
    modes = [_modes_of(layer) for layer in layers]
    try:
        try:
            if not sum([_switch(layer) for layer in layers]):
                raise ValueError(
                    f"model must have a layer of dropout; got {_checks.kind(model)}, in which there is none among "
                    f"{len(layers)} layers, so that all passes would be the same. Pass the object or the list that "
                    "holds the layers."
                )
            yield model
        finally:
            _restore(layers, modes)
    finally:  # again, if an interrupt has ended the first
        _restore(layers, modes)


def layers_of(model: object) -> list[Any]:
    """Return all layers of normdrop and modules of PyTorch that an object holds, each once, in order of appearance."""
    found, seen, waiting = [], set(), [model]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen.add(id(thing))
        if isinstance(thing, Layer) or is_module(thing):
            found.append(thing)
        waiting.extend(reversed(list(_parts(thing))))
    return found


def _parts(thing: Any) -> Iterator[Any]:
    """Yield what an object holds."""
    if is_module(thing):
        yield from thing.children()
    if isinstance(thing, Mapping):
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from thing
    elif isinstance(thing, MethodType):
        yield thing.__self__
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    yield from list(getattr(thing, "__dict__", {}).values())
    for kind in type(thing).__mro__:
        for slot in list(vars(kind).values()) if "__slots__" in vars(kind) else ():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):  # of a slot that is empty
                    yield slot.__get__(thing, kind)


def is_module(thing: object) -> bool:
    """Whether this is a module of PyTorch, which is not imported for it."""
    return _advice.is_of(thing, "torch", "named_modules")


def is_dropout_module(module: Any) -> bool:
    """Whether training mode means for a module of PyTorch that it drops elements, and nothing else."""
    p = getattr(module, "dropout", None)  # of attention and recurrent layers
    has_own = isinstance(p, (int, float)) and p > 0 and type(module).__module__.startswith("torch.nn.")
    return has_own or any(kind.__name__ == "_DropoutNd" for kind in type(module).__mro__)


def _switch(layer: Any) -> bool:
    """Leave only dropout on; return whether there is any."""
    if isinstance(layer, Layer):
        layer._passes.waiting = _NO_PASSES
        return layer._sample()
    layer.training = is_dropout_module(layer)
    return bool(layer.training)


def _modes_of(layer: Any) -> dict[str, Any]:
    """Return what `_restore` sets, by name."""
    if not isinstance(layer, Layer):
        return {"training": layer.training}
    modes = {name: vars(layer)[name] for name in _MODES if name in vars(layer)}
    return modes | {"_waiting": layer._passes.waiting}


def _restore(layers: list[Any], modes: list[dict[str, Any]]) -> None:
    for layer, mode in zip(layers, modes, strict=True):
        for name in mode.keys() & _MODES:
            setattr(layer, name, mode[name])
        if isinstance(layer, Layer):
            layer._passes.waiting = mode["_waiting"]
