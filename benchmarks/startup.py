"""What a program pays before its first pass."""

import subprocess
import sys

FIRST_CALL = "import numpy, normdrop; normdrop.Dropout(0.5, rng=0)(numpy.ones((4, 4), numpy.float32))"


def timeraw_import():
    return "import normdrop"


def timeraw_import_numpy():
    """Time the part of the above that is NumPy's."""
    return "import numpy"


def timeraw_first_call():
    """Time import and one small pass, with its kernel in the disk cache."""
    return FIRST_CALL


def _fill_cache():
    subprocess.run([sys.executable, "-c", FIRST_CALL], check=True)


timeraw_first_call.setup = _fill_cache
