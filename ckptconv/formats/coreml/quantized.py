"""Quantized and sparse weights, which an operator of a Core ML program unpacks: the role of each constant.

    constexpr_affine_dequantize        quantized_data  scale  zero_point  axis
    constexpr_blockwise_shift_scale    data  scale  offset?; the scale has the same rank, and a value for each block
    constexpr_lut_to_dense             indices  lut: [codes], since iOS 18 [blocks.., codes, size of vectors]
    constexpr_sparse_to_dense          mask  nonzero_data

The integers have types of their own, or are packed into bytes, from the lowest bits up. If a part is the output of
another operator, all parts are read as they are stored.

Sources: coremltools, converters/mil/mil/ops/defs (iOS16/constexpr_ops.py, iOS18/compression.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.notes import WITH_SCALES, QuantizedWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.coreml.program import Constant, PackedConstant


_AFFINE = "constexpr_affine_dequantize"
ROLES = {
    _AFFINE: {
        "quantized_data": "values", "scale": "scale", "zero_point": "zero_point", "axis": "axis",
    },
    "constexpr_blockwise_shift_scale": {"data": "values", "scale": "scale", "offset": "zero_point"},
    "constexpr_lut_to_dense": {"indices": "values", "lut": "codebook", "shape": "shape"},
    "constexpr_sparse_to_dense": {"nonzero_data": "values", "mask": "mask", "shape": "shape"},
}  # fmt: skip
SUMMARIES = {
    _AFFINE: WITH_SCALES, "constexpr_blockwise_shift_scale": WITH_SCALES,
    "constexpr_lut_to_dense": "palettes", "constexpr_sparse_to_dense": "sparse",
}  # fmt: skip
OPTIONAL = ("offset", "zero_point", "axis", "shape")
SUFFIXES = ("_quantized", "_palettized", "_sparsified")
"""What coremltools appends to the name of a weight."""

_BITS = {2: 1, 4: 2, 8: 3, 16: 4, 64: 6, 256: 8}


def find_quantized(
    packed: Iterable[PackedConstant], names: Mapping[int, str], tensors: Mapping[str, LazyTensor],
    stored: Mapping[str, tuple[str, tuple[int, ...]]], number: Callable[[Constant], int],
) -> Iterator[QuantizedWeight]:  # fmt: skip
    """Find the weights.

    names:  of the constants, by `id`.
    stored: the types and shapes of constants that are read as bytes, by name.
    number: reads a constant that is a single integer.
    """
    for constant in packed:
        roles = ROLES.get(constant.operator, {})
        parts = {roles[key]: names[id(part)] for key, part in constant.parts.items() if key in roles}
        if not roles or any(role not in parts for key, role in roles.items() if key not in OPTIONAL):
            continue
        details: dict[str, Json] = {}
        if constant.operator == _AFFINE and len(tensors[parts["scale"]].info.shape) == 1:
            if "axis" not in constant.parts:
                continue
            axis = number(constant.parts["axis"])
            details = {"axis": axis + len(constant.shape) if axis < 0 else axis}
        elif "codebook" in parts:
            details = _palette_details(constant, parts, tensors, stored)
        elif "mask" in parts:
            details = {"shape": list(constant.shape)}
        scheme = "sparse" if "mask" in parts else "affine"
        ordered = {role: parts[role] for role in roles.values() if role in parts}
        suffix = next((suffix for suffix in SUFFIXES if constant.name.endswith(suffix)), "")
        name = constant.name.removesuffix(suffix)
        yield QuantizedWeight(name, scheme, ordered, details, SUMMARIES[constant.operator])


def _palette_details(
    constant: PackedConstant, parts: Mapping[str, str], tensors: Mapping[str, LazyTensor],
    stored: Mapping[str, tuple[str, tuple[int, ...]]],
) -> dict[str, Json]:  # fmt: skip
    """The type and the shape of the codes."""
    table = tensors[parts["codebook"]].info.shape
    if len(table) == 1:  # before iOS 18, codes are packed into bytes, whatever their bits
        return {"codes": f"uint{_BITS.get(table[0], 0)}", "size": list(constant.shape)}
    if parts["values"] not in stored:
        return {}
    kind, shape = stored[parts["values"]]
    return {"codes": kind, "size": list(shape)}
