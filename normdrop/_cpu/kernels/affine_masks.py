"""Kernels of dropout that take what is kept to scale * x + shift and what is dropped to a constant."""

from __future__ import annotations

from normdrop._cpu.kernels import drawn_masks, given_masks, transposed
from normdrop._cpu.kernels.dropping import with_affine

affine_dropout = with_affine(drawn_masks.dropout)
mask_planes = with_affine(given_masks.mask_planes)
mask_elements = with_affine(given_masks.mask_elements)
affine_dropout_transposed = with_affine(transposed.dropout_transposed)
