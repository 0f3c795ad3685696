"""Reads how ComfyUI's files mark quantized layers; `find` finds the layers' weights and scales.

    P.scaled_fp8                  older files: layers below P have M.scale_weight (and M.scale_input); no values, or two
                                  that say nothing about the weights
    M.comfy_quant                 newer files, for each layer: a JSON object, its bytes as U8
    _quantization_metadata        the same in the file's metadata, "layers": {M: object}

The object's "format" is ComfyUI's: weights of the formats float8_… and int8_tensorwise are like all other scaled ones.
All other formats are refused by name, and so are weights that were rotated ("convrot"). nvfp4 and mxfp8 look like those
of others and are not: the first of two values in a byte is in the high bits, and scales are arranged in cuBLAS' tiles.

Source: ComfyUI's comfy/utils.py (convert_old_quants); comfy_kitchen 0.2, tensor/ and float_utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.dtypes import DType
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.tensor import LazyTensor, TensorInfo

METADATA = "_quantization_metadata"

PLAIN = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""Formats in which a weight is its values times a scale."""

MOST_BYTES = 1 << 14
"""The most bytes that describe a layer; ComfyUI writes a few dozen."""

MARKERS = _MARKER, _LAYER = "scaled_fp8", ".comfy_quant"
"""Endings of the names of tensors that say how others are quantized."""


def markers(infos: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors that say how others are quantized, and are not weights themselves."""
    return [name for name, info in infos.items() if _is_layer_marker(name, info) or _is_file_marker(name, info)]


def check(tensors: Mapping[str, LazyTensor], metadata: Mapping[object, object]) -> None:
    """Read what is stated for each layer.

    Raises UnsupportedError for an unknown format, EditError for something that ComfyUI would not write.
    """
    for name, tensor in tensors.items():
        if _is_layer_marker(name, tensor.info):
            if tensor.info.nbytes > MOST_BYTES:
                raise _bad(name, f"of {tensor.info.nbytes:,} bytes is not a ComfyUI text")
            _check_layer(_object(bytes(tensor.read()), name), name)
    for layer, found in _layers_in(metadata):
        _check_layer(found, layer)


def _is_layer_marker(name: str, info: TensorInfo) -> bool:
    return name.endswith(_LAYER) and info.dtype is DType.U8


def _is_file_marker(name: str, info: TensorInfo) -> bool:
    return name.rpartition(".")[2] == _MARKER and info.numel <= 2


def _layers_in(metadata: Mapping[object, object]) -> Iterator[tuple[str, Any]]:
    text = metadata.get(METADATA)
    if not isinstance(text, str):
        return
    layers = _object(text, METADATA).get("layers")
    if isinstance(layers, dict):
        yield from layers.items()


def _object(text: bytes | str, name: str) -> dict[str, Any]:
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise _bad(name, f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _bad(name, "is not a JSON object")
    return found


def _bad(name: str, what: str) -> EditError:
    return EditError(
        f"--dequantize: {name!r} {what}", hint="it says how ComfyUI quantized a layer; the file may be damaged"
    )


def _check_layer(found: object, name: str) -> None:
    kind = found.get("format") if isinstance(found, dict) else found
    rotated = isinstance(found, dict) and found.get("convrot")
    if kind not in PLAIN or rotated:
        called = f"{str(kind)[:80]!r}{', turned before' if rotated else ''}"
        raise UnsupportedError(
            f"{name!r}: weights of ComfyUI's format {called} are not dequantized here, but those of {', '.join(PLAIN)}",
            hint="take the model's release in BF16 or in float8_e4m3fn",
        )
