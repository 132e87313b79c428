"""Two facts of the batch-norm paper, to be seen with one's own numbers."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from normdrop import _checks
from normdrop.functional._batch_norm import batch_norm, batch_norm_backward
from normdrop.random import RNG, as_generator

Array: TypeAlias = npt.NDArray[Any]


class ScaleInvariance(NamedTuple):
    """Outputs and weight gradients of BN(W u) and of BN((a W) u)."""

    y: Array
    """BN(W u), shape (N, C)."""
    y_scaled: Array
    """BN((a W) u), shape (N, C); equal to `y`."""
    dweight: Array
    """Gradient with respect to W, shape (C, D)."""
    dweight_scaled: Array
    """Gradient with respect to a W, shape (C, D); equal to `dweight` / a."""


def scale_invariance(
    weight: Array, u: Array, a: float, *, eps: float = 1e-12, dy: Array | None = None, rng: RNG = None
) -> ScaleInvariance:
    r"""Run a linear layer and batch norm with weights W and a W, forward and backward.

    .. math::
       \mathrm{BN}((aW)u) = \mathrm{BN}(Wu), \qquad
       \frac{\partial \mathrm{BN}((aW)u)}{\partial u} = \frac{\partial \mathrm{BN}(Wu)}{\partial u}, \qquad
       \frac{\partial \mathrm{BN}((aW)u)}{\partial (aW)} = \frac{1}{a} \frac{\partial \mathrm{BN}(Wu)}{\partial W}

    So the scale of the weights does not change the backward pass through the layer, and larger weights get smaller
    gradients. Both hold as far as `eps` is small beside the variances.

    Parameters
    ----------
    weight : ndarray of float32 or float64, shape (C, D)
        W.
    u : ndarray of the same dtype, shape (N, D)
        Inputs of the linear layer, N at least 2.
    a : float
        Factor of the weights; positive.
    eps : float, default 1e-12
        Added to the variances; the usual 1e-5 shows how it disturbs the facts for small weights.
    dy : ndarray of the same dtype, shape (N, C), optional
        Gradient with respect to the output; without it, standard normal numbers from `rng`.
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where `dy` is drawn from.

    Returns
    -------
    ScaleInvariance
        Both outputs and both weight gradients, to compare.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or range.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from normdrop import functional
    >>> rng = np.random.default_rng(0)
    >>> facts = functional.scale_invariance(rng.normal(size=(3, 5)), rng.normal(size=(8, 5)), 10.0, rng=rng)
    >>> bool(np.allclose(facts.y_scaled, facts.y))
    True
    >>> bool(np.allclose(facts.dweight_scaled, facts.dweight / 10.0))
    True
    """
    weight, u = _checks.array(weight, "weight"), _checks.array(u, "u")
    if weight.ndim != 2 or u.ndim != 2 or weight.shape[1] != u.shape[1]:
        raise ValueError(f"weight must have shape (C, D) and u (N, D); got {weight.shape} and {u.shape}")
    factor = _checks.real(a, "a", "positive")
    if not 0.0 < factor < np.inf:
        raise ValueError(f"a must be positive and finite; got {a!r}")
    eps = _checks.eps(eps)
    if dy is None:
        dy = as_generator(rng).standard_normal((u.shape[0], weight.shape[0])).astype(u.dtype)
    results = []
    for w in (weight, weight.dtype.type(factor) * weight):
        y, context = batch_norm(u @ w.T, eps=eps)
        dz, _, _ = batch_norm_backward(dy, context)
        results.append((y, dz.T @ u))
    (y, dweight), (y_scaled, dweight_scaled) = results
    return ScaleInvariance(y, y_scaled, dweight, dweight_scaled)
