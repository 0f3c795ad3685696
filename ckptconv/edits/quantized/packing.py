"""How MLX packs a weight, as far as a configuration and shapes say (`mlx` describes the layout)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.tensor import TensorInfo

WORD = 32

AFFINE = "affine"

USUAL = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Mode → its default bits and group size. Modes with floating-point codes have no others."""

BITS = (1, 2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Packing:
    """How a weight is packed. group: how many columns share a scale."""

    mode: str
    bits: int
    group: int

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group}" + (f" ({self.mode})" if self.mode != AFFINE else "")

    @property
    def known(self) -> bool:
        """Whether MLX has this packing."""
        if self.mode == AFFINE:
            return self.bits in BITS and self.group in GROUPS
        return USUAL.get(self.mode) == (self.bits, self.group)


AFFINES = tuple(Packing(AFFINE, bits, group) for bits in BITS for group in GROUPS)
FLOATING = tuple(Packing(mode, *sizes) for mode, sizes in USUAL.items() if mode != AFFINE)


def packings(weight: TensorInfo, scales: TensorInfo, *, biased: bool) -> list[Packing]:
    """All packings that parts of these shapes may have, with or without biases. Shapes show only bits · group."""
    if not weight.shape or not scales.shape or weight.shape[:-1] != scales.shape[:-1] or not scales.shape[-1]:
        return []
    shared, left = divmod(weight.shape[-1] * WORD, scales.shape[-1])
    if left:
        return []
    return [packing for packing in (AFFINES if biased else FLOATING) if packing.bits * packing.group == shared]
