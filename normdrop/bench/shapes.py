"""All shapes that are measured, channels on axis 1; `settings`, `cuda` and the asv suite choose among them.

Those of the asv suite have the names by which its pages know them: where they occur, then the lengths of the axes.
Above each list stands its source.
"""

from typing import NamedTuple

Shape = tuple[int, ...]


class Group(NamedTuple):
    """Shapes of one kind, by name.

    Attributes
    ----------
    small : list of str
        Some that only show that it runs.
    tracked, more : list of str
        Those that are measured on every commit, and those that a full run adds.
    """

    small: list[str]
    tracked: list[str]
    more: list[str]


def named(family: str, *shapes: Shape) -> list[str]:
    """Name the shapes of a family.

    Parameters
    ----------
    family : str
        Where they occur.
    *shapes : tuple of int
        The shapes.

    Returns
    -------
    list of str
        Such as "maps 16x256x56x56".
    """
    return [f"{family} {'x'.join(map(str, shape))}" for shape in shapes]


def shape_of(name: str) -> Shape:
    """Return the shape that a name ends in."""
    return tuple(map(int, name.rpartition(" ")[2].split("x")))


def family_of(name: str) -> str:
    """Return the family that a name begins with."""
    return name.rpartition(" ")[0]


def images(n: int, *maps: tuple[int, int]) -> tuple[Shape, ...]:
    """Return the shapes of n images, each given by its number of channels and the length of its sides."""
    return tuple((n, c, length, length) for c, length in maps)


# ResNet-50 v1.5 as in oneDNN's benchdnn (option_set_fwks_key_gpu) and the ONNX model light_resnet50; ResNet-18 as in
# PyTorch's operator_inp_logs (timm_train/resnet18), whose maps ResNet-50 has, too.
STEM = (64, 112)
STAGES = ((256, 56), (512, 28), (1024, 14), (2048, 7))  # what leaves the four stages of ResNet-50
_BOTH = [STEM, (64, 56), (128, 28), (256, 14), (512, 7)]
_ONLY_50 = [(256, 56), (128, 56), (512, 28), (256, 28), (1024, 14), (512, 14), (2048, 7)]
_RESNET = named("ResNet-18 and 50", *images(32, *_BOTH)) + named("ResNet-50", *images(32, *_ONLY_50))
_TYPICAL = [name for name in _RESNET if shape_of(name)[1:3] in ((64, 56), (512, 28), (1024, 14), (512, 7))]

# Volumes: oneDNN benchdnn, inputs/bnorm/shapes_3d
IMAGES = Group(
    named("images", (2, 4, 8, 8)) + named("volumes", (2, 4, 4, 4, 4)),
    _TYPICAL + named("volumes", (32, 128, 12, 10, 8)),
    [name for name in _RESNET if name not in _TYPICAL] + named("volumes", (1, 16, 40, 40, 40)),
)

# Multilayer perceptrons of 128 to 1024 units at batch 128; a table with 8 columns; (3136, 256) and 8192 channels from
# PyTorch's benchmarks/operator_benchmark/pt/batchnorm_test.py.
ROWS = Group(
    named("MLP", (16, 8)),
    named("MLP", (128, 128), (128, 1024)) + named("table", (1_000_000, 8)),
    named("MLP", (128, 256), (128, 512)) + named("operator benchmark", (3136, 256), (2, 8192), (128, 8192)),
)

# One sample: light_resnet50 of the ONNX wheel, and an MLP.
SINGLE = Group(
    named("one image", (1, 4, 8, 8)),
    named("one image", *images(1, STEM, (2048, 7))) + named("one row", (1, 1024)),
    named("one image", *images(1, *STAGES[:3])) + named("one row", (1, 128)),
)

# Hidden states and attention probabilities of BERT and GPT-2 in PyTorch's operator_inp_logs (hf_train); units of an
# MLP; the head of AlexNet and VGG-19 (light_* models of the ONNX wheel) at batch 32.
TOKENS = Group(
    named("MLP", (16, 8)),
    named("BERT hidden", (64, 128, 768))
    + named("BERT attention", (64, 12, 128, 128))
    + named("MLP", (128, 1024))
    + named("head", (32, 4096)),
    named("GPT-2 hidden", (4, 1024, 768))
    + named("GPT-2 attention", (4, 12, 1024, 1024))
    + named("MLP", (128, 128), (128, 256), (128, 512)),
)
TRANSFORMERS = ("BERT hidden", "BERT attention", "GPT-2 hidden", "GPT-2 attention")  # p = 0.1 there, else 0.5

# What leaves the stages of ResNet-50, at batch 16.
MAPS = Group(
    named("maps", (2, 4, 8, 8)),
    named("maps", *images(16, STAGES[0], STAGES[2])),
    named("maps", *images(16, STAGES[1], STAGES[3])),
)

# Peak memory: 25.7 MB in float32.
MEMORY = Group(named("images", (2, 4, 8, 8)), named("ResNet-50", (32, 256, 28, 28)), [])

# Of the commands: flat arrays by powers of two and up to 1.6 GB, in a cache and in memory; images from 1 element a
# channel to the same size; few channels, few samples, and calls too small for anything but their cost.
IN_CACHE = tuple((1 << n,) for n in (10, 12, 14, 16, 18, 20))
IN_MEMORY = tuple((1 << n,) for n in (22, 24, 26))
LARGEST = ((1 << 28,), (400_000_000,))
RELATIVES = ((1 << 20,), (1 << 24,))  # relatives of dropout, in either place
GROWING = (*images(32, *((32, 1 << n) for n in range(10))), (32, 32, 625, 625))
FEATURES = ((128, 1024), (64, 4096), (4096, 1024), (1_000_000, 8))
DENSE = ((128, 128), (128, 1024))  # with a square matrix of weights
FEW_CHANNELS = images(32, (1, 224), (3, 224))
SMALL = (32, 32)
ON_THREADS = (
    *(("in cache", shape) for shape in ((1 << 18,), (1 << 20,), (32, 32, 16, 16), (32, 64, 32, 32))),
    *(("in memory", shape) for shape in ((1 << 24,), (32, 64, 56, 56))),
)

# Of the command on a GPU.
GPU_SIZES = (1 << 10, 1 << 20, 1 << 24, 1 << 28)
GPU_QUICK_SIZES = (1 << 10, 1 << 26)
GPU_IMAGES = images(256, STEM, *STAGES) + images(32, (32, 1))
GPU_QUICK_IMAGES = GPU_IMAGES[1::4]
