"""Parse the documents of TensorFlow.js: what they state about the weights and the model.

    model.json               {"format", "modelTopology", "weightsManifest": GROUPS, …}
    …weights_manifest.json   GROUPS
    GROUPS                   [{"paths": [FILE, …], "weights": [WEIGHT, …]}, …]
    WEIGHT                   {"name", "shape", "dtype", "group"?: "optimizer", "quantization"?: HOW}
    HOW                      {"dtype": "uint8" | "uint16", "scale", "min"}, or {"dtype": "float16"}

The weights of a group are in the concatenation of its files, one after another.

Source: tfjs-core/src/io/types.ts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.tfjs.values import Scale
from ckptconv.io.limits import MAX_DIM, MAX_FILES, MAX_INDEX_BYTES, MAX_RANK, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.io.source import Source

_KEY = "weightsManifest"
_NEAR = 1 << 16
_MODEL = re.compile(rb'\s*\{.*?"(modelTopology|weightsManifest|generatedBy|convertedBy)"\s*:', re.DOTALL)
_LIST = re.compile(rb'\s*\[\s*\{\s*"(paths|weights)"\s*:\s*\[')

_STORED = ("uint8", "uint16", "float16")


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight's description.

    stored:    the type of its bytes, if that is not `dtype`; else "".
    scale:     how its values are computed from integers.
    optimizer: whether it belongs to the optimizer.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    scale: Scale | None
    optimizer: bool


@dataclass(frozen=True, slots=True)
class Group:
    """The weights that are in the concatenation of some files, one after another."""

    files: tuple[str, ...]
    weights: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The groups of weights, and all other entries of the document."""

    groups: tuple[Group, ...]
    other_entries: dict[str, Json]


def bad(what: str) -> CorruptFileError:
    """The error for a document that contradicts the format."""
    return CorruptFileError(f"the TensorFlow.js model is invalid: {what}", hint=COPY_ALL_AGAIN)


def looks_like_one(source: Source) -> bool:
    """Whether the document begins like one of these, and mentions weights."""
    start = bytes(source.read_at(0, min(_NEAR, source.size)))
    if _LIST.match(start):
        return b'"paths"' in start or source.size > _NEAR
    if not _MODEL.match(start) or source.size > MAX_INDEX_BYTES:
        return False
    return f'"{_KEY}"'.encode() in bytes(source.read_all(MAX_INDEX_BYTES))


def read_manifest(source: Source) -> Manifest:
    """Read and check the document. Raises CorruptFileError, LimitError, UnsupportedError."""
    document = strict_json.document(bytes(source.read_all(MAX_INDEX_BYTES)), "this file", hint=COPY_ALL_AGAIN)
    groups = document.pop(_KEY, None) if isinstance(document, dict) else document
    if not isinstance(groups, list) or not groups:
        raise bad(f"it has no {_KEY}")
    if len(groups) > MAX_FILES:
        raise LimitError(f"it has {len(groups):,} groups of weights; the limit is {MAX_FILES:,}")
    parsed = tuple(_parse_group(group) for group in groups)
    if sum(len(group.weights) for group in parsed) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} weights")
    if sum(len(group.files) for group in parsed) > MAX_FILES:
        raise LimitError(f"it names more than {MAX_FILES:,} files")
    return Manifest(parsed, document if isinstance(document, dict) else {})


def _parse_group(group: Json) -> Group:
    if not isinstance(group, dict):
        raise bad("a group of weights is not an object")
    files, weights = group.get("paths"), group.get("weights")
    if not isinstance(files, list) or not isinstance(weights, list):
        raise bad("a group of weights has no paths, or no weights")
    if not all(isinstance(file, str) for file in files):
        raise bad("a path is not text")
    return Group(tuple(str(file) for file in files), tuple(_parse_weight(weight) for weight in weights))


def _parse_weight(weight: Json) -> Weight:
    if not isinstance(weight, dict) or not isinstance(name := weight.get("name"), str):
        raise bad("a weight has no name")
    shape, dtype = weight.get("shape"), weight.get("dtype")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= MAX_DIM for size in shape):
        raise bad(f"the shape of {name!r} is not a list of sizes")
    if len(shape) > MAX_RANK:
        raise bad(f"{name!r} has {len(shape):,} dimensions")
    if not isinstance(dtype, str):
        raise bad(f"{name!r} has no type")
    stored = ""
    scale: Scale | None = None
    if "quantization" in weight:
        stored, scale = _parse_quantization(name, dtype, weight["quantization"])
    sizes = tuple(size for size in shape if isinstance(size, int))
    return Weight(name, sizes, dtype, stored, scale, weight.get("group") == "optimizer")


def _parse_quantization(name: str, dtype: str, quantization: Json) -> tuple[str, Scale | None]:
    """How a weight is stored in fewer bits: the type of its bytes, and the scale of integers."""
    if not isinstance(quantization, dict):
        raise bad(f"the quantization of {name!r} is not an object")
    stored, scale, least = quantization.get("dtype"), quantization.get("scale"), quantization.get("min")
    if stored not in _STORED or dtype not in (("float32",) if stored == "float16" else ("float32", "int32")):
        raise UnsupportedError(
            f"{name!r} is {dtype} stored as {stored!r}, which TensorFlow.js 4.22 does not know",
            hint="the file is damaged, or newer than this ckptconv",
        )  # fmt: skip
    if stored == "float16":
        return stored, None
    numbers = [float(number) for number in (scale, least) if isinstance(number, int | float) and abs(number) < 2**1023]
    if len(numbers) != 2 or isinstance(scale, bool) or isinstance(least, bool):
        raise bad(f"the scale or the min of {name!r} is not a number")
    return str(stored), Scale(*numbers)
