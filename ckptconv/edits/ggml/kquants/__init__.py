"""ggml's K-quants: blocks of 256 elements, with sub-blocks that have scales of a few bits; and two similar types.

    Q2_K  16 bytes: scale and minimum, 4 bits each, of 16 sub-blocks of 16; 64 bytes: 2 bits an element; F16 d, dmin
    Q3_K  32 bytes: the third bit of each element; 64 bytes: the lower 2; 12 bytes: 16 scales of 6 bits, of sub-blocks
          of 16; F16 d
    Q4_K  F16 d, dmin; 12 bytes: scale and minimum, 6 bits each, of 8 sub-blocks of 32; 128 bytes: 4 bits an element
    Q5_K  the same, and before the elements 32 bytes: the fifth bit of each
    Q6_K  128 bytes: the lower 4 bits of the elements; 64 bytes: their upper 2; 16 scales of 8 bits, of sub-blocks of
          16; F16 d
    IQ4_XS  F16 d; 2 bytes: the upper 2 bits of the scales of 8 sub-blocks of 32, and 4 bytes: the lower 4; 128 bytes:
            4 bits an element, which stand for 16 values that are uneven
    IQ4_NL  the same of 32 elements alone: F16 d, and 16 bytes

Each sub-block's scale (and minimum) is searched for: the elements are rounded with several scales near the obvious one
(Q3_K: one element after another, given the others), and the best one is kept, by squared errors (Q2_K: absolute ones)
that are weighted by the elements' absolute values. Then the scales are rounded, and the elements are rounded again with
these. It is computed in F32, with sums from the first element to the last, so that the bits are those of
``ggml_quantize_chunk`` without an importance matrix, if that was compiled without fused multiply-add, as ggml's base
library is for any x86-64. Elements are in columns here, a sub-block in each.

Source: ggml's ggml-quants.c (`quantize_row_q2_K_ref` to `q6_K_ref`, `make_qkx2_quants`, `make_q3_quants`,
`make_qx_quants`, `quantize_row_iq4_nl_impl`) and ggml-common.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.ggml.kquants.minima import q2, q4, q5
from ckptconv.edits.ggml.kquants.symmetric import q3, q6
from ckptconv.edits.ggml.kquants.uneven import iq4_nl, iq4_xs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.arrays import Array


KQUANTS: dict[str, Callable[[Array], Array]] = {
    "Q6_K": q6, "Q5_K": q5, "Q4_K": q4, "Q3_K": q3, "Q2_K": q2, "IQ4_XS": iq4_xs, "IQ4_NL": iq4_nl,
}  # fmt: skip
"""For each type, what makes its blocks: F32 values, a whole number of blocks, become a row of bytes for each block."""
