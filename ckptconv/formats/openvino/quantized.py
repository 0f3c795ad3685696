"""Find weights that NNCF compressed: which constants are the integers, scales and zero points of one weight.

    values   Const → Convert                 integers, or floats of 4 and 8 bits
             Gather (codebook, Const → …)    the values that integers stand for
    minus    Subtract (values, Const)        the zero point
    times    Multiply (…, Const)             the scale, or two: Multiply (Const, Const of one number)
    then     Reshape

There may be a Convert after each Const. Subtract and Reshape may be missing. Each dimension of the scale is 1, or that
of the integers. Other arithmetic is no such weight, and neither are integers that two of these use. NF4 becomes the
type in which the graph computes.

Source: github.com/openvinotoolkit/nncf, openvino/algorithms/weight_compression (openvino_backend.py).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.notes import WITH_SCALES, QuantizedWeight
from ckptconv.formats.openvino.document import number_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.formats.openvino.document import Layer, Net

VALUES = frozenset(("i8", "u8", "i4", "u4", "u2", "i16", "u16", "nf4", "f8e4m3", "f8e5m2", "f4e2m1"))
CODES = frozenset(("u8", "u4", "u2"))


def find_quantized(net: Net, names: Mapping[int, str]) -> tuple[QuantizedWeight, ...]:
    """Find the weights; `names`: of the constants, by their layers' numbers."""
    reshapes = {
        layer.inputs["0"].number: layer for layer in net.layers if layer.type == "Reshape" and "0" in layer.inputs
    }
    found: dict[str, QuantizedWeight | None] = {}
    for layer in net.layers:
        if layer.type != "Multiply":
            continue
        parts, details = _parts(layer)
        if not parts or any(part.number not in names for part in parts.values()):
            continue
        reshape = reshapes.get(layer.number)
        if reshape is not None and layer.feeds == 1:
            details["shape"] = [*_sizes(reshape.dims)]
        part_names = {role: names[part.number] for role, part in parts.items()}
        values = part_names["values"]
        name = part_names.get("codebook", values)  # NNCF gives a codebook the name of the weight
        weight = QuantizedWeight(name, "affine", part_names, details, WITH_SCALES)
        found[values] = None if values in found else weight
    weights = {values: weight for values, weight in found.items() if weight is not None}
    used = {part for weight in weights.values() for role, part in weight.parts.items() if role != "values"}
    return tuple(weight for values, weight in weights.items() if values not in used)


def _parts(product: Layer) -> tuple[dict[str, Layer], dict[str, Json]]:
    """The parts and details of the weight that a Multiply makes; empty if it makes none."""
    for first, second in (("0", "1"), ("1", "0")):
        steps, scales = product.inputs.get(first), _scales(product.inputs.get(second))
        parts: dict[str, Layer] = {}
        if steps is not None and steps.type == "Subtract":
            zero, steps = _constant(steps.inputs.get("1")), steps.inputs.get("0")
            if zero is None:
                continue
            parts["zero_point"] = zero
        values, details = _values(steps)
        if values and scales:
            if product.precision == "FP16" and "factor" in scales:
                details["computed"] = "F16"
            return {**values, **scales, **parts}, details
    return {}, {}


def _values(layer: Layer | None) -> tuple[dict[str, Layer], dict[str, Json]]:
    """The values of a weight, or their codes and the codebook; and how they are stored."""
    if layer is None:
        return {}, {}
    if layer.type == "Gather":
        book, codes = _constant(layer.inputs.get("0")), _constant(layer.inputs.get("1"))
        axis = _constant(layer.inputs.get("2"))
        if book is None or codes is None or axis is None or _kind(codes) not in CODES or "," in _shape(book):
            return {}, {}
        return {"values": codes, "codebook": book}, {}
    values = layer.inputs.get("0") if layer.type == "Convert" else None
    if values is None or values.type != "Const" or _kind(values) not in VALUES:
        return {}, {}
    if _kind(values) != "nf4":
        return {"values": values}, {}
    element_type = "nf4-f16" if layer.data.get("destination_type", "").lower() == "f16" else "nf4"
    return {"values": values}, {"codes": element_type, "size": [*_sizes(_shape(values).split(","))]}


def _scales(layer: Layer | None) -> dict[str, Layer]:
    """The scale, and the factor that it is multiplied by, if any."""
    if (constant := _constant(layer)) is not None:
        return {"scale": constant}
    if layer is not None and layer.type == "Convert":
        layer = layer.inputs.get("0")
    if layer is None or layer.type != "Multiply":
        return {}
    scale, factor = (_constant(layer.inputs.get(port)) for port in ("0", "1"))
    if scale is None or factor is None or prod(_sizes(_shape(factor).split(","))) != 1:
        return {}
    return {"scale": scale, "factor": factor}


def _constant(layer: Layer | None) -> Layer | None:
    """The constant that a layer is or converts; None if it is neither."""
    if layer is not None and layer.type == "Convert":
        layer = layer.inputs.get("0")
    return layer if layer is not None and layer.type == "Const" else None


def _kind(layer: Layer) -> str:
    return layer.data.get("element_type", "").lower()


def _shape(layer: Layer) -> str:
    return layer.data.get("shape", "")


def _sizes(texts: list[str]) -> list[int]:
    """The dimensions; -1 for what is not a size, which is reported where they are used."""
    sizes = [number_in(text.strip()) for text in texts if text.strip()]
    return [-1 if size is None else size for size in sizes]
