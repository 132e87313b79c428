"""Shapes of real networks, each named by where it occurs.

A name is the value of a parameter, as it stands in the pages: the family, then the lengths of the axes, channels on
axis 1. Behind each list stands its source.
"""

from . import FULL, SMOKE

Shape = tuple[int, ...]


def named(family: str, *shapes: Shape) -> list[str]:
    """Return the names of shapes of a family."""
    return [f"{family} {'x'.join(map(str, shape))}" for shape in shapes]


def shape_of(name: str) -> Shape:
    """Return the shape that a name ends in."""
    return tuple(map(int, name.rpartition(" ")[2].split("x")))


def family_of(name: str) -> str:
    """Return the family that a name begins with."""
    return name.rpartition(" ")[0]


def _chosen(smoke: list[str], default: list[str], rest: list[str]) -> list[str]:
    return smoke if SMOKE else default + rest if FULL else default


# Batch norm at N = 32. ResNet-50 v1.5 as in oneDNN's benchdnn (option_set_fwks_key_gpu) and the ONNX model
# light_resnet50; ResNet-18 as in PyTorch's operator_inp_logs (timm_train/resnet18), whose shapes ResNet-50 has, too.
_BOTH = [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)]
_ONLY_50 = [(256, 56), (128, 56), (512, 28), (256, 28), (1024, 14), (512, 14), (2048, 7)]
RESNET = [
    *named("ResNet-18 and 50", *((32, c, n, n) for c, n in _BOTH)),
    *named("ResNet-50", *((32, c, n, n) for c, n in _ONLY_50)),
]
_TYPICAL = [name for name in RESNET if shape_of(name)[1:3] in ((64, 56), (512, 28), (1024, 14), (512, 7))]

# oneDNN benchdnn, inputs/bnorm/shapes_3d
_VOLUMES = named("volumes", (32, 128, 12, 10, 8))
_MORE_VOLUMES = named("volumes", (1, 16, 40, 40, 40))

IMAGES = _chosen(
    named("images", (2, 4, 8, 8)) + named("volumes", (2, 4, 4, 4, 4)),
    _TYPICAL + _VOLUMES,
    [name for name in RESNET if name not in _TYPICAL] + _MORE_VOLUMES,
)

# Multilayer perceptrons of 128 to 1024 units at batch 128; a table with 8 columns; (3136, 256) and 8192 channels from
# PyTorch's benchmarks/operator_benchmark/pt/batchnorm_test.py.
ROWS = _chosen(
    named("MLP", (16, 8)),
    named("MLP", (128, 128), (128, 1024)) + named("table", (1_000_000, 8)),
    named("MLP", (128, 256), (128, 512)) + named("operator benchmark", (3136, 256), (2, 8192), (128, 8192)),
)

# One sample: light_resnet50 of the ONNX wheel, and an MLP.
SINGLE = _chosen(
    named("one image", (1, 4, 8, 8)),
    named("one image", (1, 64, 112, 112), (1, 2048, 7, 7)) + named("one row", (1, 1024)),
    named("one image", (1, 256, 56, 56), (1, 512, 28, 28), (1, 1024, 14, 14)) + named("one row", (1, 128)),
)

# Hidden states and attention probabilities of BERT and GPT-2 in PyTorch's operator_inp_logs (hf_train); units of an
# MLP; the head of AlexNet and VGG-19 (light_* models of the ONNX wheel) at batch 32.
TOKENS = _chosen(
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

# Where ResNet-50 has feature maps, at batch 16.
MAPS = _chosen(
    named("maps", (2, 4, 8, 8)),
    named("maps", (16, 256, 56, 56), (16, 1024, 14, 14)),
    named("maps", (16, 512, 28, 28), (16, 2048, 7, 7)),
)

DTYPES = ["float32"] if SMOKE else ["float32", "float64", "float16"] if FULL else ["float32", "float64"]
LAYOUTS = ["channels first", "channels last"]
ONE_LAYOUT = ["C order"]
OPERATIONS = ["forward", "backward", "step"]
