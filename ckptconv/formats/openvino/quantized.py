"""Weights that a graph computes of integers, as NNCF compresses them: which constants belong together.

    values   Const → Convert                 integers, or floats of 4 and 8 bits
             Gather (codebook, Const → …)    what integers stand for
    less     Subtract (values, Const)        the zero point
    times    Multiply (…, Const)             the scale, or two: Multiply (Const, Const of one number)
    then     Reshape

Each Const may be behind a Convert. Subtract and Reshape may be missing. A dimension of the scale is one, or that of the
integers. What is computed otherwise is no such weight, nor are integers that two of these take. NF4 becomes the type
in which the graph computes.

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
    """The weights; `names` are those of the constants by their numbers."""
    reshapes = {one.inputs["0"].number: one for one in net.layers if one.type == "Reshape" and "0" in one.inputs}
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
        called = {role: names[part.number] for role, part in parts.items()}
        name = called["values"]
        known = name in found
        found[name] = None if known else QuantizedWeight(_plain(called), "affine", called, details, WITH_SCALES)
    used = {part for one in found.values() if one for role, part in one.parts.items() if role != "values"}
    return tuple(one for name, one in found.items() if one is not None and name not in used)


def _plain(called: Mapping[str, str]) -> str:
    """What the weight is called: as its codebook, where it has one, which NNCF puts in its place."""
    return called.get("codebook", called["values"])


def _parts(product: Layer) -> tuple[dict[str, Layer], dict[str, Json]]:
    """What a Multiply makes a weight of; nothing where it makes none."""
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
            half = "FP16" if product.precision == "FP16" and "factor" in scales else ""
            return {**values, **scales, **parts}, details | ({"computed": "F16"} if half else {})
    return {}, {}


def _values(layer: Layer | None) -> tuple[dict[str, Layer], dict[str, Json]]:
    """The integers, or their codes and what these stand for, and how they are stored."""
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
    half = layer.data.get("destination_type", "").lower() == "f16"
    return {"values": values}, {"codes": "nf4-f16" if half else "nf4", "size": [*_sizes(_shape(values).split(","))]}


def _scales(layer: Layer | None) -> dict[str, Layer]:
    """The scale; where it is multiplied with a number, that too."""
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
    """The constant that a layer is, or converts."""
    if layer is not None and layer.type == "Convert":
        layer = layer.inputs.get("0")
    return layer if layer is not None and layer.type == "Const" else None


def _kind(layer: Layer) -> str:
    return layer.data.get("element_type", "").lower()


def _shape(layer: Layer) -> str:
    return layer.data.get("shape", "")


def _sizes(texts: list[str]) -> list[int]:
    """Dimensions; what is none is told where they are used."""
    found = [number_in(text.strip()) for text in texts if text.strip()]
    return [-1 if size is None else size for size in found]
