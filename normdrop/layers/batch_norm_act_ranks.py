"""Fused layers with a number of axes in their name, which they check."""

from __future__ import annotations

from normdrop.layers.batch_norm_act import BatchNormAct


class BatchNormAct1d(BatchNormAct):
    """Batch normalization, activation and dropout of (N, C) or (N, C, L) inputs.

    `BatchNormAct` with a check of the number of axes; all arguments and attributes are the same.

    See Also
    --------
    BatchNormAct : arguments, attributes, modes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> normdrop.BatchNormAct1d(3)(np.zeros((2, 3), np.float32)).shape
    (2, 3)
    """

    _ranks = (2, 3)
    _shape = "(N, C) or (N, C, L)"


class BatchNormAct2d(BatchNormAct):
    """Batch normalization, activation and dropout of (N, C, H, W) inputs.

    `BatchNormAct` with a check of the number of axes; all arguments and attributes are the same.

    See Also
    --------
    BatchNormAct : arguments, attributes, modes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> normdrop.BatchNormAct2d(3)(np.zeros((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    _ranks = (4,)
    _shape = "(N, C, H, W)"


class BatchNormAct3d(BatchNormAct):
    """Batch normalization, activation and dropout of (N, C, D, H, W) inputs.

    `BatchNormAct` with a check of the number of axes; all arguments and attributes are the same.

    See Also
    --------
    BatchNormAct : arguments, attributes, modes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> normdrop.BatchNormAct3d(3)(np.zeros((2, 3, 4, 4, 4), np.float32)).shape
    (2, 3, 4, 4, 4)
    """

    _ranks = (5,)
    _shape = "(N, C, D, H, W)"
