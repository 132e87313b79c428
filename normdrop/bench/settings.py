"""What is measured in a full run and in a quick one, and for how long."""

from collections.abc import Iterator
from dataclasses import dataclass

from normdrop.bench import shapes
from normdrop.bench.cases import (
    APART,
    BACK,
    BATCH_NORM,
    BLOCKS,
    CHANNELS,
    CONNECTIONS,
    DROPOUT,
    FUSED,
    FUSED_BACK,
    FUSED_PASSES,
    GROWING,
    HALF,
    IN_CACHE,
    IN_MEMORY,
    MASKED_PASSES,
    NORM,
    NORM_BACK,
    OF_ELEMENTS,
    OF_IMAGES,
    Case,
    Family,
    matches,
)


@dataclass(frozen=True)
class Settings:
    """What is measured, and how much.

    Attributes
    ----------
    families : tuple of Family
        What is measured beside a copy and other libraries.
    on_threads : tuple of Case
        What is measured on one thread and on all.
    rounds : int
        Rounds, in each of which all sides of a case take their turn.
    seconds : float
        Time for the calls of a side in a round, if more than one call fits in.
    longest : float
        Time for the calls of another library in all rounds of a case. One that is slower takes part in fewer rounds,
        but at least in `fewest`.
    fewest : int
        Least number of rounds.
    peers : tuple of str
        Keys of the other libraries that take part if none are named.
    largest : int
        Elements of the largest inputs in which other libraries take part.
    """

    families: tuple[Family, ...]
    on_threads: tuple[Case, ...]
    rounds: int
    seconds: float
    longest: float
    fewest: int
    peers: tuple[str, ...]
    largest: int = 1 << 26

    def cases(self, only: str = "") -> Iterator[Case]:
        """List the cases, those of one shape one after another.

        Parameters
        ----------
        only : str, default ""
            Part of the names of the passes that are wanted; "_" counts as a space.

        Yields
        ------
        Case
            What is to be measured beside a copy and other libraries.
        """
        for family in self.families:
            for shape in family.shapes:
                for operation in family.passes:
                    if matches(operation, only):
                        yield Case(family.name, operation, shape, family.channels_last)


# Dropout of elements knows no channels: where memory has no gaps, only the size matters to it, so that it is measured
# on flat arrays.
FULL = Settings(
    families=(
        Family("channels first", shapes.images(32, shapes.STEM, (64, 56), *shapes.STAGES), (CHANNELS, *BATCH_NORM)),
        Family(
            "channels last", shapes.images(32, (64, 56), (512, 28)), (HALF, CHANNELS, *BATCH_NORM), channels_last=True
        ),
        Family("fused, channels first", shapes.images(32, (64, 56), (256, 56), (512, 28)), FUSED_PASSES),
        Family("fused, rows", shapes.FEATURES[:2], FUSED_PASSES),
        Family("masked, channels first", shapes.images(32, (64, 56), (256, 56), (512, 28)), MASKED_PASSES),
        Family("masked, rows", shapes.FEATURES[:2], MASKED_PASSES),
        Family("dense", shapes.DENSE, CONNECTIONS),
        Family("relatives of dropout", shapes.RELATIVES, OF_ELEMENTS),
        Family("relatives of dropout", shapes.images(32, (256, 56)), OF_IMAGES),
        Family("relatives of dropout", shapes.images(32, (1024, 14)), BLOCKS),
        Family("rows", shapes.FEATURES, BATCH_NORM),
        Family("few channels", shapes.FEW_CHANNELS, BATCH_NORM),
        Family("a batch of 2", shapes.images(2, (256, 56)), BATCH_NORM),
        Family(IN_CACHE, shapes.IN_CACHE, DROPOUT),
        Family(IN_MEMORY, shapes.IN_MEMORY, DROPOUT),
        Family(IN_MEMORY, shapes.LARGEST, (HALF, BACK)),
        Family(GROWING, shapes.GROWING, (NORM, NORM_BACK)),
        Family("small calls", (shapes.SMALL,), (HALF, BACK, *BATCH_NORM)),
    ),
    on_threads=tuple(
        Case(place, operation, shape)
        for place, shape in shapes.ON_THREADS
        for operation in (BATCH_NORM if len(shape) > 1 else (HALF, BACK))
    ),
    rounds=15,
    seconds=0.004,
    longest=3.0,
    fewest=5,
    peers=("numpy", "torch", "torch.compile", "jax"),
)
QUICK = Settings(
    families=(
        Family("channels first", shapes.images(32, (64, 56)), (CHANNELS, *BATCH_NORM)),
        Family("fused, channels first", shapes.images(32, (64, 56)), (FUSED, APART, FUSED_BACK)),
        Family("rows", shapes.FEATURES[:1], (NORM, NORM_BACK)),
        Family(IN_CACHE, shapes.IN_CACHE[2::2][:2], (HALF, BACK)),
        Family(IN_MEMORY, shapes.IN_MEMORY[:1], (HALF, BACK)),
        Family(GROWING, shapes.GROWING[2:8:2], (NORM, NORM_BACK)),
        Family("small calls", (shapes.SMALL,), (HALF, NORM)),
    ),
    on_threads=tuple(case for case in FULL.on_threads if case.operation in (HALF, NORM)),
    rounds=5,
    seconds=0.002,
    longest=0.5,
    fewest=3,
    peers=("numpy", "torch", "jax"),  # torch.compile takes seconds for each case
)
