"""Weights that an operator of a Core ML program makes of several constants: which of them is what.

    constexpr_affine_dequantize        quantized_data  scale  zero_point  axis
    constexpr_blockwise_shift_scale    data  scale  offset?; the scale has as many dimensions, of equal blocks
    constexpr_lut_to_dense             indices  lut: [codes], since iOS 18 [blocks.., codes, size of vectors]
    constexpr_sparse_to_dense          mask  nonzero_data

The integers are of their own types, or bytes with elements from their lowest bits on. What has a part that another
operator makes stays as it is stored.

Sources: coremltools, converters/mil/mil/ops/defs (iOS16/constexpr_ops.py, iOS18/compression.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.notes import WITH_SCALES, QuantizedWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.coreml.program import Constant, Packed

    Found = tuple[str, dict[str, str], dict[str, Json]]

_AFFINE = "constexpr_affine_dequantize"
ROLES = {
    _AFFINE: {
        "quantized_data": "values", "scale": "scale", "zero_point": "zero_point", "axis": "axis",
    },
    "constexpr_blockwise_shift_scale": {"data": "values", "scale": "scale", "offset": "zero_point"},
    "constexpr_lut_to_dense": {"indices": "values", "lut": "codebook", "shape": "shape"},
    "constexpr_sparse_to_dense": {"nonzero_data": "values", "mask": "mask", "shape": "shape"},
}  # fmt: skip
CALLED = {
    _AFFINE: WITH_SCALES, "constexpr_blockwise_shift_scale": WITH_SCALES,
    "constexpr_lut_to_dense": "palettes", "constexpr_sparse_to_dense": "sparse",
}  # fmt: skip
OPTIONAL = ("offset", "zero_point", "axis", "shape")
ENDS = ("_quantized", "_palettized", "_sparsified")
"""What coremltools puts behind the name of a weight."""

_BITS = {2: 1, 4: 2, 8: 3, 16: 4, 64: 6, 256: 8}


def find_quantized(
    packed: Iterable[Packed], names: Mapping[int, str], tensors: Mapping[str, LazyTensor],
    stored: Mapping[str, tuple[str, tuple[int, ...]]], number: Callable[[Constant], int],
) -> Iterator[QuantizedWeight]:  # fmt: skip
    """The weights. names: of the constants, by their identity. stored: of those that are read as bytes, their type and
    shape. number: reads a constant that is one.
    """
    for one in packed:
        roles = ROLES.get(one.operator, {})
        parts = {roles[key]: names[id(constant)] for key, constant in one.parts.items() if key in roles}
        if not roles or any(role not in parts for key, role in roles.items() if key not in OPTIONAL):
            continue
        details: dict[str, Json] = {}
        if one.operator == _AFFINE and len(tensors[parts["scale"]].info.shape) == 1:
            if "axis" not in one.parts:
                continue
            axis = number(one.parts["axis"])
            details = {"axis": axis + len(one.shape) if axis < 0 else axis}
        elif "codebook" in parts:
            details = _palette(one, parts, tensors, stored)
        elif "mask" in parts:
            details = {"shape": list(one.shape)}
        scheme = "sparse" if "mask" in parts else "affine"
        ordered = {role: parts[role] for role in roles.values() if role in parts}
        name = next((one.name.removesuffix(end) for end in ENDS if one.name.endswith(end)), one.name)
        yield QuantizedWeight(name, scheme, ordered, details, CALLED[one.operator])


def _palette(
    one: Packed, parts: Mapping[str, str], tensors: Mapping[str, LazyTensor],
    stored: Mapping[str, tuple[str, tuple[int, ...]]],
) -> dict[str, Json]:  # fmt: skip
    """How the codes are stored."""
    table = tensors[parts["codebook"]].info.shape
    if len(table) == 1:  # of before iOS 18: bytes, whatever the codes have
        return {"codes": f"uint{_BITS.get(table[0], 0)}", "size": list(one.shape)}
    if parts["values"] not in stored:
        return {}
    kind, shape = stored[parts["values"]]
    return {"codes": kind, "size": list(shape)}
