"""Keras' weights of 8 and 4 bits, by what `dialects.keras_readings` says of them; and notes about them in checkpoints.

The details are: the `form`; the `size` of the elements as a matrix, or for int8 of any shape; their `bits`; the `axis`
of the groups; how many scales there are along each dimension (`counts`); the weight's `shape`. Of two elements in a
byte, the first is in the low bits: signed in I8, unsigned in U8. Which dimension is packed, shapes show.

A weight is what Keras computes with, divided by its scales or (values - zero points) · scales, in the type of the
scales. Source: keras/src/quantizers/quantizers.py (`unpack_int4`, `dequantize_with_sz_map`); `_int8_call` and others of
keras/src/layers/core.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.edits.dialects.keras_quantized import find, mode_of, plain_policy
from ckptconv.edits.dialects.keras_readings import DIVIDED, GROUPED, KEPT, TURNED
from ckptconv.edits.quantized.blocks import layout
from ckptconv.edits.quantized.elements import Packed, Plain
from ckptconv.edits.quantized.matrix import Grid, Lines, Matrix, Product
from ckptconv.edits.quantized.parts import FLOATS, MOST_NUMBERS, Parts, check_dtype, folded, sizes_of, swap_last_axes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

    Shape = tuple[int, ...]

_NAMES, _MODEL = "weight_names", "model_weights/"

_SIGNED = tuple(float((code ^ 8) - 8) for code in range(16))
_UNSIGNED = tuple(float(code) for code in range(16))


def weight(parts: Parts, details: Mapping[str, Json]) -> tuple[Matrix, Shape]:
    """The weight, and its shape. Raises ValueError, saying what does not fit."""
    size, shape, form = sizes_of(details, "size"), sizes_of(details, "shape"), details.get("form")
    if prod(size) != prod(shape):
        raise ValueError(f"elements of the shape {list(size)} do not make a weight of {list(shape)}")
    values = parts["values"]
    if form == KEPT:
        if values.info.shape != size:
            raise ValueError(f"values have the shape {list(values.info.shape)}, not {list(size)}")
        return Plain(values, folded(size)), shape
    if form == DIVIDED:
        return _divided(parts, size, details), shape
    if form not in (GROUPED, TURNED) or len(size) != 2:
        raise ValueError(f"there is no form {form!r} of {len(size)} dimensions")
    if form == TURNED:
        turned = ("values", "scale", "zero_point")
        parts = {role: _turned(part) if role in turned else part for role, part in parts.items()}
    made = _grouped(parts, (size[0], size[1]), details)
    if "factor" in parts:
        factors = parts["factor"]
        check_dtype(factors, "factor", FLOATS)
        _check_shape(factors, "factor", size[:1])
        made = Product(made, Plain(factors, (size[0], 1)), _whole_rows(size), divides=True)
    return made, shape


def _divided(parts: Parts, size: Shape, details: Mapping[str, Json]) -> Matrix:
    scale, counts = parts["scale"], sizes_of(details, "counts")
    check_dtype(scale, "scale", FLOATS)
    if len(counts) != len(size) or any(count not in (1, whole) for count, whole in zip(counts, size, strict=True)):
        raise ValueError(f"{list(counts)} scales are none for {list(size)}")
    if prod(counts) != scale.info.numel:
        raise ValueError(f"scale has the shape {list(scale.info.shape)}, and is not {list(counts)}")
    if details.get("bits") == 8:
        matrix, grid, by = layout(
            size, tuple(1 if count == whole else whole for count, whole in zip(counts, size, strict=True))
        )
        return Product(_eights(parts["values"], size, matrix), Plain(scale, by), grid, divides=True)
    if len(size) != 2:
        raise ValueError(f"elements of 4 bits are a matrix, not {list(size)}")
    rows, columns = size
    grid = Grid(
        max(rows, 1),
        1 if counts[0] == rows else max(rows, 1),
        1 if counts[1] == columns else max(columns, 1),
        counts[0],
    )
    return Product(_fours(parts["values"], (rows, columns)), Plain(scale, (counts[0], counts[1])), grid, divides=True)


def _grouped(parts: Parts, size: tuple[int, int], details: Mapping[str, Json]) -> Matrix:
    """(values - zero points) · scales, of groups along the axis."""
    axis, scale, zero = details.get("axis"), parts["scale"], parts["zero_point"]
    if axis not in (0, 1):
        raise ValueError(f"axis {axis!r} is none of a matrix")
    check_dtype(scale, "scale", FLOATS)
    check_dtype(zero, "zero_point", (DType.I8, DType.U8, *FLOATS))
    groups = scale.info.shape[axis] if len(scale.info.shape) == 2 else 0
    by = (groups, size[1]) if axis == 0 else (size[0], groups)
    _check_shape(scale, "scale", by)
    _check_shape(zero, "zero_point", by)
    order = _order(parts["g_idx"], size[axis], groups)
    rows = max(size[0], 1)
    grid = Lines(order) if axis == 0 else Grid(rows, 1, 1, rows, order)
    read = _eights(parts["values"], size, size) if details.get("bits") == 8 else _fours(parts["values"], size)
    return Product(read, Plain(scale, by), grid, Plain(zero, by))


def _eights(values: LazyTensor, size: Shape, matrix: tuple[int, int]) -> Matrix:
    check_dtype(values, "values", (DType.I8, DType.U8))
    _check_shape(values, "values", size)
    return Plain(values, matrix)


def _fours(values: LazyTensor, size: tuple[int, int]) -> Matrix:
    check_dtype(values, "values", (DType.I8, DType.U8))
    along = next((axis for axis in (1, 0) if values.info.shape == _packed(size, axis)), None)
    if along is None:
        raise ValueError(f"values of the shape {list(values.info.shape)} are not {list(size)} elements of 4 bits")
    return Packed(values, size, 4, along, _SIGNED if values.info.dtype is DType.I8 else _UNSIGNED)


def _packed(size: tuple[int, int], axis: int) -> Shape:
    return tuple(-(-whole // 2) if place == axis else whole for place, whole in enumerate(size))


def _order(tensor: LazyTensor, length: int, groups: int) -> Array:
    """The group of each index, which Keras keeps as floats."""
    import numpy as np

    check_dtype(tensor, "g_idx", FLOATS)
    if tensor.info.shape != (length,) or length > MOST_NUMBERS:
        raise ValueError(f"g_idx has the shape {list(tensor.info.shape)}, and not {[length]}, at most {MOST_NUMBERS:,}")
    found = tensor.numpy().astype(np.float32)
    if length and not (np.isfinite(found).all() and 0 <= found.min() <= found.max() < groups):
        raise ValueError(f"g_idx names other groups than 0 to {groups - 1}")
    order: Array = found.astype(np.int64)  # as Keras, which cuts fractions off
    return order


def _turned(tensor: LazyTensor) -> LazyTensor:
    if len(tensor.info.shape) != 2:
        raise ValueError(f"{list(tensor.info.shape)} is no matrix")
    return swap_last_axes(tensor, tensor.info.shape)


def _whole_rows(size: Shape) -> Grid:
    return Grid(max(size[0], 1), 1, max(size[1], 1), max(size[0], 1))


def _check_shape(tensor: LazyTensor, part: str, wanted: Shape) -> None:
    if tensor.info.shape != tuple(wanted):
        raise ValueError(f"{part} has the shape {list(tensor.info.shape)}, not {list(wanted)}")


def with_weights(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of a file of Keras, with the weights that Keras quantized in its notes."""
    notes = checkpoint.notes
    found = find(infos_of(checkpoint), checkpoint.metadata)
    known = {weight.values for weight in notes.quantized}
    weights = [weight for weight in found.weights if weight.values not in known]
    if not weights:
        return checkpoint
    between = dict.fromkeys((*notes.between, *found.beside))
    checkpoint.notes = replace(notes, quantized=(*notes.quantized, *weights), between=tuple(between))
    if not found.assumed:
        return checkpoint
    message = (
        f"{found.assumed!r} is taken for Keras' int8; nothing here says that it is not int4 of a Keras before 3.14"
    )
    return checkpoint.replaced(
        findings=(*checkpoint.findings, Finding("quantized-how", "warning", found.assumed, message))
    )


def with_plain_policies(node: MetaNode) -> MetaNode:
    """The metadata with a configuration of which no layer is quantized; in an HDF5 file that is a text."""
    changed: Any = node
    match node:
        case dict() if mode_of(node):
            return plain_policy(node)
        case dict():
            changed = node.copy()
            changed.update({key: with_plain_policies(value) for key, value in node.items()})
            changed.pop("quantization_config", None)
        case list():
            changed = [with_plain_policies(value) for value in node]
        case str() if node.startswith("{") and '"source_name"' in node:
            with suppress(ValueError, RecursionError):
                changed = json.dumps(with_plain_policies(json.loads(node)))
    return changed


def without_names(root: MetaNode, gone: Collection[str]) -> MetaNode:
    """The metadata of an HDF5 file, without tensors that are gone in the lists by which Keras reads older ones.

    It reads them by their places: quantized kernels, which are not trained, come after all biases, and plain ones each
    before its own.
    """
    if not isinstance(root, dict):
        return root
    changed = root.copy()
    for path, attributes in root.items():
        names = attributes.get(_NAMES) if isinstance(attributes, dict) else None
        if isinstance(attributes, dict) and isinstance(names, list):
            around = str(path).removeprefix(_MODEL)
            left = [name for name in names if f"{around}/{name}" not in gone]
            changed[path] = {**attributes, _NAMES: _in_plain_order(left) if len(left) < len(names) else names}
    return changed


def _in_plain_order(names: list[MetaNode]) -> list[MetaNode]:
    modules = {str(name).rpartition("/")[0]: place for place, name in reversed(list(enumerate(names)))}

    def place(name: MetaNode) -> tuple[int, bool]:
        module, _, word = str(name).rpartition("/")
        return modules[module], word.partition(":")[0] not in ("kernel", "embeddings")

    return sorted(names, key=place)


def listed_names(root: MetaNode) -> list[str]:
    """The tensors that the metadata of an HDF5 file lists, in the order of the lists."""
    lists = {
        str(path).removeprefix(_MODEL): attributes.get(_NAMES)
        for path, attributes in (root.items() if isinstance(root, dict) else ())
        if isinstance(attributes, dict)
    }
    return [f"{path}/{name}" for path, names in lists.items() if isinstance(names, list) for name in names]
