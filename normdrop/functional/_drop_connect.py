"""DropConnect without state: a dense layer whose connections are dropped, forward and backward."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _advice, _backend, _checks, _device, _layout, _pool
from normdrop._connections import Connections
from normdrop.functional._dense_layer import Arguments, arguments, dense, n_rows
from normdrop.functional._masking import ALL_DROPPED, SCALINGS, Scaling, law_of
from normdrop.random import RNG, check_rng, with_call

Array: TypeAlias = npt.NDArray[Any]
Masks: TypeAlias = Literal["sample", "batch"]
Gradients: TypeAlias = "tuple[Array, Array, Array | None]"

MASKS = ("sample", "batch")


class DropConnectContext(NamedTuple):
    """What `drop_connect_backward` needs. No mask is kept: it is drawn again from key and call.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, weight = np.ones((5, 3)), np.ones((2, 3))
    >>> _, context = functional.drop_connect(x, weight, p=0.5, rng=0)
    >>> context.weight is weight, context.has_bias, context.call
    (True, False, 0)
    """

    x: Array
    """The input, not to be changed before backward; a copy where it had gaps or was overwritten."""
    weight: Array
    """The weights, as the input."""
    connections: Connections
    """Key and call of the stream, T, the scale, and whether samples share a mask."""
    has_bias: bool
    """Whether there was a bias."""

    @property
    def call(self) -> int:
        """Call of the stream."""
        return self.connections.call


def drop_connect(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    p: float,
    masks: Masks = "sample",
    scaling: Scaling = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> tuple[Array, DropConnectContext]:
    r"""Apply a dense layer of whose connections each is dropped with probability `p`.

    .. math:: y_{no} = \frac{1}{1 - p} \sum_i m_{noi} w_{oi} x_{ni} + b_o, \qquad
        m_{noi} \sim \mathrm{Bernoulli}(1 - p)

    with ``scaling="inverted"``, and without the factor 1/(1 - p) with ``scaling="original"``. Each sample has a mask of
    its own, which is never stored, or with ``masks="batch"`` all have one. The bias is not dropped.

    Parameters
    ----------
    x : ndarray of floats, shape (N, in)
        Input; not modified. It is held, not a copy of it, until backward.
    weight : ndarray, shape (out, in), dtype of `x`
        Weights, as PyTorch lays them out; not modified, and held as `x` is.
    bias : ndarray, shape (out,), dtype of `x`, optional
        Added.
    p : float
        Probability of dropping a connection, from 0 to 1, rounded as by `dropout`. With 1 only the bias is left.
    masks : {"sample", "batch"}, default "sample"
        Whether each sample has a mask of its own, as in the paper, or all of the batch have one, which takes the time
        of dropout on `weight` and of a matrix product.
    scaling : {"inverted", "original"}, default "inverted"
        Whether sums are scaled now, or in inference.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the masks come from; a `MaskStream` moves on by one call. ``None`` is a fresh key.
    out : ndarray, shape (N, out), dtype of `x`, optional
        Where to write `y`; it may not share memory with what is read.

    Returns
    -------
    y : ndarray, shape (N, out), dtype of `x`
        In C order, or `out`.
    context : DropConnectContext
        For `drop_connect_backward`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range. Nothing has changed then, the stream included.

    See Also
    --------
    drop_connect_backward : gradients with respect to `x`, `weight` and `bias`.
    drop_connect_inference : the same layer in inference.
    dropout : drops inputs, with all connections of each.

    Notes
    -----
    The mask is that of `dropout` for an array of shape (N, out, in), or (out, in), with the same p and stream. Nothing
    is drawn if one of these is 0, and the stream then keeps its call.

    Masks of samples: sums are taken in float64, in an order that depends on their length alone, are scaled, and rounded
    once, so that y has the same bits on any number of threads. It is off by at most half a unit in its last place and
    (in + 3) 2\ :sup:`-53` times the sum of the absolute values of what is added. A dropped connection adds
    +0, whatever its weight and input are: a NaN or infinity there disappears, forward and backward.

    A mask of the batch: weights are dropped to +0, and NumPy multiplies the matrices in the dtype of `x` (in float32
    for 16-bit dtypes), so that last places depend on its library. A NaN in a dropped weight disappears; one in an
    input does not, as 0 times NaN is NaN. So it is where `p` is 0 and all masks are one.

    The paper drops the biases, too; that is another column of `weight`, with inputs of 1.

    References
    ----------
    .. [1] L. Wan, M. Zeiler, S. Zhang, Y. LeCun and R. Fergus, "Regularization of neural networks using DropConnect",
       ICML 2013, section 3, equation 4; section 4.1 (a mask for each sample).

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, weight = np.ones((100, 8)), np.ones((4, 8))
    >>> y, context = functional.drop_connect(x, weight, p=0.5, rng=0)
    >>> kept = functional.dropout(np.ones((100, 4, 8)), 0.5, rng=0)[0]
    >>> bool(np.all(y == kept.sum(axis=2)))
    True
    >>> dx, dweight, dbias = functional.drop_connect_backward(np.ones((100, 4)), context)
    >>> dx.shape, dweight.shape, dbias
    ((100, 8), (4, 8), None)
    """
    made = arguments(x, weight, bias, out)
    threshold, scale = law_of(_checks.probability(p), _checks.choice(scaling, "scaling", SCALINGS))
    shared = _checks.choice(masks, "masks", MASKS) == "batch"
    check_rng(rng)
    if _is_empty(made.x, made.weight):
        return forward(made, Connections((0, 0), 0, threshold, scale, shared))
    return with_call(rng, lambda key, call: forward(made, Connections(key, call, threshold, scale, shared)))


def drop_connect_backward(dy: Array, context: DropConnectContext) -> Gradients:
    r"""Gradients of `drop_connect` with respect to `x`, `weight` and `bias`, by the masks of the forward pass.

    .. math:: dx_{ni} = s \sum_o m_{noi} w_{oi} dy_{no}, \quad dw_{oi} = s \sum_n m_{noi} x_{ni} dy_{no}, \quad
        db_o = \sum_n dy_{no}

    where s is the scale of that pass.

    Parameters
    ----------
    dy : ndarray, shape (N, out), dtype of the forward pass's `x`
        Gradient with respect to `y`; not modified.
    context : DropConnectContext
        What `drop_connect` or `drop_connect_inference` returned. It can be used any number of times.

    Returns
    -------
    dx : ndarray, shape (N, in)
        Gradient with respect to `x`, in its dtype, as the others.
    dweight : ndarray, shape (out, in)
        With respect to `weight`.
    dbias : ndarray, shape (out,), or None
        With respect to `bias`; None where there was none.

    Raises
    ------
    TypeError, ValueError
        `dy` or `context` does not match the forward pass.

    Notes
    -----
    Where samples have masks of their own, sums are taken in float64, over o and n in order, and rounded once.

    References
    ----------
    .. [1] L. Wan, M. Zeiler, S. Zhang, Y. LeCun and R. Fergus, "Regularization of neural networks using DropConnect",
       ICML 2013, section 3.1, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> x, weight, bias = np.ones((3, 2)), np.ones((1, 2)), np.zeros(1)
    >>> y, context = functional.drop_connect(x, weight, bias, p=0.5, rng=1)
    >>> dx, dweight, dbias = functional.drop_connect_backward(np.ones((3, 1)), context)
    >>> bool(np.all(dx.sum(axis=1, keepdims=True) == y)), dbias.tolist()
    (True, [3.0])
    """
    if not isinstance(context, DropConnectContext):
        raise TypeError(f"context must be what drop_connect() returned; got {_checks.kind(context)}")
    connections = context.connections
    if not isinstance(connections, Connections):
        raise TypeError(f"context.connections must be Connections; got {_checks.kind(connections)}")
    x, weight, _, _ = arguments(context.x, context.weight, None, None, of="context.")
    dy = _checks.array(dy, "dy", x.dtype)
    _checks.same_shape(dy, (n_rows(x), n_rows(weight)), "dy", "the forward pass's y")
    if dy.dtype != x.dtype:
        advice = _advice.cast(dy.dtype, "dy", x.dtype)
        raise TypeError(f"dy must have the dtype of the forward pass's x, {x.dtype}; got {dy.dtype}. {advice}")
    _checks.same_place(dy, "dy", x, "the forward pass's x")
    dy = dense(dy)
    dx, dweight = _new(x.shape, x), _new(weight.shape, x)
    if _is_empty(x, weight) or connections.threshold == ALL_DROPPED:
        dx.fill(0)
        dweight.fill(0)
    else:
        _backend.drop_connect_input_gradient(dx, dy, weight, connections)
        _backend.drop_connect_weight_gradient(dweight, dy, x, connections)
    dbias = _bias_gradient(dy) if context.has_bias else None
    return _device.native(dx), _device.native(dweight), dbias


def _is_empty(x: Array, weight: Array) -> bool:
    """Whether there are no connections."""
    return x.size == 0 or weight.size == 0


def _new(shape: tuple[int, ...], like: Array) -> Array:
    """Return a new array where `like` is, of its dtype."""
    return _pool.empty(shape, like.dtype) if _device.on_host(like) else _device.empty(shape, like.dtype, like)


def forward(made: Arguments, connections: Connections) -> tuple[Array, DropConnectContext]:
    """Compute the output of these connections, and what its backward needs."""
    x, weight, bias, out = made
    context = DropConnectContext(_device.native(x), _device.native(weight), connections, bias is not None)
    shape = n_rows(x), n_rows(weight)
    direct = out is not None and out.flags.c_contiguous and out.flags.aligned
    y = out if out is not None and direct else _new(shape, x)
    if _is_empty(x, weight) or connections.threshold == ALL_DROPPED:
        y.fill(0)
        if bias is not None and y.size:
            y[...] = _layout.broadcast(dense(bias).reshape((1, shape[1])), list(shape))
    else:
        _backend.drop_connect(y, x, weight, _wide(bias, shape[1], x), connections)
    if out is None or direct:
        return _device.native(y), context
    out[...] = y
    return _device.native(out), context


def _wide(bias: Array | None, n: int, x: Array) -> Array:
    """Return the bias in float64."""
    wide: Array = _device.empty((n,), np.float64, x)
    if bias is None:
        wide.fill(0.0)
    else:
        wide[...] = bias
    return wide


def _bias_gradient(dy: Array) -> Array:
    sums: Array = _device.empty(dy.shape[1:], np.float64, dy)
    if dy.size:
        _backend.drop_connect_bias_gradient(sums, dy)
    else:
        sums.fill(0.0)
    with np.errstate(over="ignore"):
        dbias: Array = sums if sums.dtype == dy.dtype else sums.astype(dy.dtype)
    return _device.native(dbias)
