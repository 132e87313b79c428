"""Errors on data that is hard to normalize. They do not depend on chance: a larger one is other arithmetic."""

import numpy as np

from normdrop import functional

from . import SMOKE

N = 1000 if SMOKE else 1_000_000
SMALLEST = 2.0**-53  # an error below this is reported as this, so that a ratio of two errors is always defined


def _normal(mean: float, sd: float, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, sd, shape).astype(dtype)


def _drifting() -> np.ndarray:
    """Rows whose mean wanders by 1000 standard deviations, so that no shift fits all of them."""
    return (_normal(0, 1, (N, 8), np.float64) + np.linspace(0, 1000, N)[:, np.newaxis]).astype(np.float32)


def _outlier() -> np.ndarray:
    """Rows of which the first, a bad choice of a shift, is far from all others."""
    x = _normal(0, 1, (N, 8))
    x[0] = 1e6
    return x


DATA = {
    "mean 300, sd 0.1, rows": lambda: _normal(300, 0.1, (N, 8)),
    "mean 300, sd 0.1, images": lambda: _normal(300, 0.1, (N // 500, 8, 10, 10)),
    "mean/sd 1e6, rows": lambda: _normal(1e6, 1, (N, 8)),
    "mean/sd 1e6, images": lambda: _normal(1e6, 1, (N // 500, 8, 10, 10)),
    "mean/sd 1e9 in float64": lambda: _normal(1e9, 1, (N, 8), np.float64),
    "drift": _drifting,
    "outlier first": _outlier,
    "tiny, sd 1e-18": lambda: _normal(0, 1e-18, (N, 8)),
}


class Normalization:
    """Batch norm beside the same in extended precision, of the values as they are stored."""

    params = [list(DATA)]
    param_names = ["data"]
    timeout = 300
    unit = "relative error"

    def setup(self, data: str) -> None:
        self.x = DATA[data]()
        self.eps = 1e-5 * float(self.x[:, 0].astype(np.float64).var())  # small beside the variance
        self.y, self.context = functional.batch_norm(self.x, eps=self.eps)

    def _exact(self) -> tuple[np.ndarray, np.ndarray]:
        """Return variance and output."""
        axes = (0, *range(2, self.x.ndim))
        centered = self.x - self.x.mean(axes, np.longdouble, keepdims=True)
        var = np.square(centered).mean(axes, keepdims=True)
        return var.ravel(), centered / np.sqrt(var + self.eps)

    def track_variance_error(self, data: str) -> float:
        exact = self._exact()[0]
        return max(SMALLEST, float(np.max(np.abs(self.context.var - exact) / exact)))

    def track_output_error(self, data: str) -> float:
        exact = self._exact()[1]
        return max(SMALLEST, float(np.max(np.abs(self.y - exact) / (1 + np.abs(exact)))))
