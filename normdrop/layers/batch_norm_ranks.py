"""Batch normalization layers with a number of axes in their name, which they check."""

from __future__ import annotations

from normdrop.layers.batch_norm import BatchNorm


class BatchNorm1d(BatchNorm):
    """Batch normalization of (N, C) or (N, C, L) inputs.

    `BatchNorm` with a check of the number of axes; all arguments and attributes are the same.

    See Also
    --------
    BatchNorm : arguments, attributes, modes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> normdrop.BatchNorm1d(3)(np.zeros((2, 3), np.float32)).shape
    (2, 3)
    """

    _ranks = (2, 3)
    _shape = "(N, C) or (N, C, L)"


class BatchNorm2d(BatchNorm):
    """Batch normalization of (N, C, H, W) inputs.

    `BatchNorm` with a check of the number of axes; all arguments and attributes are the same.

    See Also
    --------
    BatchNorm : arguments, attributes, modes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> normdrop.BatchNorm2d(3, channel_axis=-1)(np.zeros((2, 4, 4, 3), np.float32)).shape
    (2, 4, 4, 3)
    """

    _ranks = (4,)
    _shape = "(N, C, H, W)"


class BatchNorm3d(BatchNorm):
    """Batch normalization of (N, C, D, H, W) inputs.

    `BatchNorm` with a check of the number of axes; all arguments and attributes are the same.

    See Also
    --------
    BatchNorm : arguments, attributes, modes.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> normdrop.BatchNorm3d(3)(np.zeros((2, 3, 4, 4, 4), np.float32)).shape
    (2, 3, 4, 4, 4)
    """

    _ranks = (5,)
    _shape = "(N, C, D, H, W)"
