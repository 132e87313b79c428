"""JAX on the CPU: functions compiled by ``jax.jit``, on arrays of its own."""
# What each method prepares is said by its name.
# ruff: noqa: D102

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from normdrop.bench.batch import Array, Batch
from normdrop.bench.protocol import Call
from normdrop.bench.shapes import Shape


class JAX:
    """The formulas in jax.numpy. Channels-last batches are (N, H, W, C), because JAX has no strides.

    Attributes
    ----------
    name, version : str
        As in `Peer`.
    """

    name = "JAX"
    version = str(jax.__version__)

    def dropout(self, batch: Batch, p: float) -> Call:
        return self._dropout(batch, batch.dense(batch.x).shape, p)

    def channel_dropout(self, batch: Batch, p: float) -> Call:
        return self._dropout(batch, batch.channel_mask, p)

    def _dropout(self, batch: Batch, shape: Shape, p: float) -> Call:
        x = _own(batch.dense(batch.x))
        state = {"key": _own(jax.random.key(0))}

        def forward(key: Any, x: Any) -> Any:
            key, now = jax.random.split(key)
            return key, jnp.where(jax.random.bernoulli(now, 1 - p, shape), x * (1 / (1 - p)), 0)

        compiled = jax.jit(forward)

        def call() -> object:
            state["key"], y = jax.block_until_ready(compiled(state["key"], x))
            return y

        return call

    def dropout_backward(self, batch: Batch, p: float) -> Call:
        dy = _own(batch.dense(batch.dy))
        kept = jax.random.bernoulli(_own(jax.random.key(0)), 1 - p, dy.shape)
        return _jitted(lambda dy, kept: jnp.where(kept, dy * (1 / (1 - p)), 0), dy, kept)

    def batch_norm(self, batch: Batch) -> Call:
        axes = batch.axes

        def forward(x: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
            now, spread = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
            n = x.size / gamma.size
            y = (x - now) * (gamma * jax.lax.rsqrt(spread + 1e-5)) + beta
            return y, 0.9 * mean + 0.1 * now, 0.9 * var + 0.1 * (n / (n - 1)) * spread

        return _jitted(forward, _own(batch.dense(batch.x)), *_vectors(batch))

    def fused(self, batch: Batch, p: float) -> Call:
        axes, shape = batch.axes, batch.dense(batch.x).shape
        x, (_, _, gamma, beta) = _own(batch.dense(batch.x)), _vectors(batch)
        state = {"key": _own(jax.random.key(0))}

        def forward(key: Any, x: Any, gamma: Any, beta: Any) -> Any:
            key, now = jax.random.split(key)
            mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
            y = jnp.maximum((x - mean) * (gamma * jax.lax.rsqrt(var + 1e-5)) + beta, 0)
            return key, jnp.where(jax.random.bernoulli(now, 1 - p, shape), y * (1 / (1 - p)), 0)

        compiled = jax.jit(forward)

        def call() -> object:
            state["key"], y = jax.block_until_ready(compiled(state["key"], x, gamma, beta))
            return y

        return call

    def batch_norm_backward(self, batch: Batch) -> Call:
        x, dy, axes = _own(batch.dense(batch.x)), _own(batch.dense(batch.dy)), batch.axes
        mean = jnp.mean(x, axes, keepdims=True)
        inv_std = jax.lax.rsqrt(jnp.var(x, axes, keepdims=True) + 1e-5)
        gamma = _own(batch.column(batch.gamma))

        def backward(dy: Any, x: Any, mean: Any, inv_std: Any, gamma: Any) -> Any:
            x_hat = (x - mean) * inv_std
            dgamma, dbeta = jnp.sum(dy * x_hat, axes, keepdims=True), jnp.sum(dy, axes, keepdims=True)
            n = x.size / gamma.size
            return gamma * inv_std * (dy - (dbeta + x_hat * dgamma) / n), dgamma.ravel(), dbeta.ravel()

        return _jitted(backward, dy, x, mean, inv_std, gamma)

    def batch_norm_inference(self, batch: Batch) -> Call:
        def inference(x: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
            return (x - mean) * (gamma * jax.lax.rsqrt(var + 1e-5)) + beta

        return _jitted(inference, _own(batch.dense(batch.x)), *_vectors(batch))


def _own(values: Any) -> Any:
    """Move to the CPU, also where JAX knows other devices."""
    return jax.device_put(values, jax.devices("cpu")[0])


def _vectors(batch: Batch) -> list[Any]:
    vectors: tuple[Array, ...] = (batch.mean, batch.var, batch.gamma, batch.beta)
    return [_own(batch.column(vector)) for vector in vectors]


def _jitted(function: Callable[..., Any], *arguments: Any) -> Call:
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def make(n_threads: int) -> JAX:
    """Make it; a running JAX cannot be told how many threads to use."""
    return JAX()
