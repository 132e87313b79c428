"""The parameters of the benchmarks: shapes by the names that `normdrop.bench.shapes` gives them, and the rest."""

from normdrop.bench import shapes

from . import FULL, SMOKE


def _chosen(group: shapes.Group) -> list[str]:
    return group.small if SMOKE else group.tracked + group.more if FULL else group.tracked


IMAGES, ROWS, SINGLE = _chosen(shapes.IMAGES), _chosen(shapes.ROWS), _chosen(shapes.SINGLE)
TOKENS, MAPS, MEMORY = _chosen(shapes.TOKENS), _chosen(shapes.MAPS), _chosen(shapes.MEMORY)
DTYPES = ["float32"] if SMOKE else ["float32", "float64", "float16"] if FULL else ["float32", "float64"]
LAYOUTS = ["channels first", "channels last"]
ONE_LAYOUT = ["C order"]
OPERATIONS = ["forward", "backward", "step"]
