"""How much the demo trains."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How much is trained.

    Attributes
    ----------
    n_splits : int
        Number of random divisions into training and test digits. Every comparison is made on all of them.
    epochs : dict
        Epochs of each network on few digits, for the main comparison.
    n_evaluations : int
        Number of points on a curve of the main comparison.
    epochs_more : int
        Epochs of the fully connected network on more digits.
    sigmoid_steps : int
        Steps of the network of sigmoids.
    rates : tuple of float
        Learning rates to try, ascending.
    rate_steps : int
        Steps with each of them.
    n_passes : int
        Number of thinned networks to average.
    few, more : int
        Numbers of training digits.
    seconds : float
        Roughly the processor time of all of it, to say beforehand how long it takes.
    """

    n_splits: int
    epochs: dict[str, int]
    n_evaluations: int
    epochs_more: int
    sigmoid_steps: int
    rates: tuple[float, ...]
    rate_steps: int
    n_passes: int
    few: int = 200
    more: int = 1000
    seconds: float = 0


FULL = Settings(
    n_splits=10,
    epochs={"fully connected": 150, "convolutional": 100},
    n_evaluations=12,
    epochs_more=30,
    sigmoid_steps=1000,
    rates=(0.1, 0.2, 0.5, 1, 2, 5),
    rate_steps=200,
    n_passes=50,
    seconds=360,
)
QUICK = Settings(
    n_splits=5,
    epochs={"fully connected": 20, "convolutional": 16},
    n_evaluations=8,
    epochs_more=6,
    sigmoid_steps=240,
    rates=(0.1, 0.5, 2),
    rate_steps=80,
    n_passes=10,
    seconds=34,
)
