"""Figures and numbers of the page "Why whole channels": feature maps of a trained convolution, of digits and photos."""

import functools
from itertools import product
from typing import Any

import numpy as np
from figures import BLUE, GREEN, ORANGE, RED, register
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits, load_sample_images
from threadpoolctl import threadpool_limits

import normdrop
from normdrop.demo.networks import SGD, convolutional

DISTANCES = np.array([1, 2, 3, 4, 6, 8, 16, 32])
SHRUNK = (1, 4, 16)  # photos, as they are and smaller
EPOCHS, ROWS, SAMPLES, DRAWS = 3, 50, 8000, 8
MIDDLE, AROUND = 4, [0, 1, 2, 3, 5, 6, 7, 8]  # places of a 3 × 3 neighborhood
PROBABILITIES = np.linspace(0, 0.95, 20)


@functools.cache
@threadpool_limits.wrap(limits=1, user_api="blas")
def maps() -> dict[str, np.ndarray]:
    """Outputs of the rectifiers behind both convolutions of the demo's network, float32, (N, C, H, W)."""
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 8 - 0.6).astype(np.float32)
    rng = np.random.default_rng(0)
    network = convolutional("plain", rng=rng, mask_rng=rng)
    optimizer = SGD(network)
    photos = np.stack([photo.mean(axis=2) for photo in load_sample_images().images])[:, None, :416, :640]
    photos = (photos / 127.5 - 0.6).astype(np.float32)
    for rows in np.array_split(rng.permutation(EPOCHS * len(x)) % len(x), EPOCHS * len(x) // ROWS):
        network.learn(x[rows], labels[rows])
        optimizer.step(0.02)
    network.eval()

    def after(x: np.ndarray, n_layers: int) -> np.ndarray:
        for layer in network.layers[:n_layers]:
            x = layer.forward(x)
        return np.ascontiguousarray(x)

    found = {f"photos / {k}": after(_shrunk(photos, k), 2) for k in SHRUNK}
    return found | {"digits": after(x, 2), "digits, second layer": after(x, 5)}


def _shrunk(x: np.ndarray, k: int) -> np.ndarray:
    n, c, height, width = x.shape
    return x.reshape(n, c, height // k, k, width // k, k).mean(axis=(3, 5))


def _correlation(x: np.ndarray, distance: int) -> float:
    """Correlation of elements so far apart in a row, each less the mean of its channel."""
    a, b = x[..., :-distance], x[..., distance:]
    a, b = a - a.mean(axis=(0, 2, 3), keepdims=True), b - b.mean(axis=(0, 2, 3), keepdims=True)
    both, first, second = (np.vdot(*pair) for pair in ((a, b), (a, a), (b, b)))
    return float(both / np.sqrt(first * second))


@functools.cache
def _correlations() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for name in (*(f"photos / {k}" for k in SHRUNK), "digits"):
        x = maps()[name]
        distances = DISTANCES[x.shape[-1] // 2 >= DISTANCES]
        found[name] = distances, np.array([_correlation(x, distance) for distance in distances])
    return found


@functools.cache
def _covariances(name: str) -> tuple[np.ndarray, int]:
    """Of all elements of a 3 × 3 neighborhood, channel by channel, and the number of channels that are not constant."""
    x = maps()[name]
    windows = sliding_window_view(x, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    places = np.unravel_index(
        np.random.default_rng(0).permutation(np.prod(windows.shape[:3]))[:SAMPLES], windows.shape[:3]
    )
    rows = windows[places].reshape(len(places[0]), -1, 9).astype(float)
    rows = rows[:, rows[:, :, MIDDLE].var(axis=0) > 1e-3 * rows[:, :, MIDDLE].var(axis=0).max()]
    return np.cov(rows.reshape(len(rows), -1).T), rows.shape[1]


def _explained(covariances: np.ndarray, target: int, known: np.ndarray) -> float:
    """Share of the target's variance that the best linear prediction from what is known has."""
    if not len(known):
        return 0.0
    square = covariances[np.ix_(known, known)]
    square = square + 1e-6 * np.trace(square) / len(known) * np.eye(len(known))
    with_target = covariances[known, target]
    return float(with_target @ np.linalg.solve(square, with_target) / covariances[target, target])


@functools.cache
@threadpool_limits.wrap(limits=1, user_api="blas")
def _from_own(name: str) -> np.ndarray:
    """By the eight elements around it, for each p: the mean over all 256 masks of them, and over channels."""
    covariances, n_channels = _covariances(name)
    masks = np.array(list(product((False, True), repeat=8)))
    of_masks = np.zeros(len(masks))
    for c in range(n_channels):
        around = 9 * c + np.array(AROUND)
        of_masks += [_explained(covariances, 9 * c + MIDDLE, around[mask]) / n_channels for mask in masks]
    kept = masks.sum(axis=1)
    return np.array([np.sum((1 - p) ** kept * p ** (8 - kept) * of_masks) for p in PROBABILITIES])


@functools.cache
@threadpool_limits.wrap(limits=1, user_api="blas")
def _from_all(name: str, *, whole: bool, p: float = 0.5) -> float:
    """By all that is kept of the neighborhood, in all channels: with single elements or whole channels dropped."""
    covariances, n_channels = _covariances(name)
    rng, found = np.random.default_rng(1), []
    for c in range(n_channels):
        for _ in range(DRAWS):
            kept = rng.random((n_channels, 1 if whole else 9)) >= p
            kept = np.array(np.broadcast_to(kept, (n_channels, 9)))
            kept[c, MIDDLE] = False
            if whole:
                kept[c] = False
            found.append(_explained(covariances, 9 * c + MIDDLE, np.flatnonzero(kept)))
    return float(np.mean(found))


def _noise(x: np.ndarray, layer: Any) -> list[float]:
    """Root mean square of what dropout changes, over that of the maps: as it is, in means of 3 × 3, in means of all."""
    change, ratios = layer(x) - x, []
    for mean in (
        lambda x: x,
        lambda x: sliding_window_view(x, (3, 3), axis=(2, 3)).mean(axis=(4, 5)),
        lambda x: x.mean(axis=(2, 3)),
    ):
        ratios.append(float(np.sqrt(np.mean(mean(change) ** 2) / np.mean(mean(x) ** 2))))
    return ratios


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _noise_table() -> list[list[str]]:
    rows = [["change by dropout with p = 0.5", "each element", "3 × 3 means", "means of maps"]]
    for name, what in (("photos / 4", "photos"), ("digits", "digits")):
        x = maps()[name]
        for layer, dropped in (
            (normdrop.Dropout(0.5, rng=0), "elements"),
            (normdrop.Dropout2d(0.5, rng=0), "channels"),
        ):
            rows.append([f"{what}, {dropped}", *map(_percent, _noise(x, layer))])
    return rows


def _known_table() -> list[list[str]]:
    rows = [["feature maps", "elements dropped", "channels dropped"]]
    for name, what in (
        ("photos / 4", "photos, first convolution"),
        ("digits", "digits, first"),
        ("digits, second layer", "digits, second"),
    ):
        rows.append([what, *(_percent(_from_all(name, whole=whole)) for whole in (False, True))])
    return rows


def _distances(axes: Any) -> None:
    colors = dict(zip(_correlations(), (BLUE, GREEN, ORANGE, RED), strict=True))
    for name, (distances, correlations) in _correlations().items():
        label = "photos" if name == "photos / 1" else name
        axes.plot(distances, correlations, "o-", ms=4, color=colors[name], label=label)
    axes.axhline(0, color="#808080", lw=0.8)
    axes.set(xlabel="distance in pixels", ylabel="correlation", ylim=(-0.3, 1.02), xscale="log")
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.2)
    axes.set_xticks(DISTANCES, labels=map(str, DISTANCES), minor=False)
    axes.set_xticks([], minor=True)


def _own(axes: Any) -> None:
    for name, label, color in (("photos / 4", "photos / 4", GREEN), ("digits", "digits", RED)):
        axes.plot(PROBABILITIES, _from_own(name), color=color, lw=2, label=label)
    axes.set(xlabel="p", ylabel="explained by its neighbors", ylim=(0, 1))


def _numbers() -> dict[str, str]:
    found = _correlations()
    half = int(np.argmin(np.abs(PROBABILITIES - 0.5)))
    return {
        "channels-photos": f"{found['photos / 1'][1][0]:.2f}",
        "channels-photos-far": f"{found['photos / 1'][1][-1]:.2f}",
        "channels-digits": f"{found['digits'][1][0]:.2f}",
        "channels-own-photos": _percent(_from_own("photos / 4")[half]),
        "channels-own-digits": _percent(_from_own("digits")[half]),
    }


register(
    {"channels-distances": _distances, "channels-own": _own},
    _numbers,
    {"channels-noise": _noise_table, "channels-known": _known_table},
    height=2.8,
)


def setup(app: Any) -> dict[str, Any]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
