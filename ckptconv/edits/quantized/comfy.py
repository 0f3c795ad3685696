"""How ComfyUI's files say which layers are quantized, and how; their weights and scales are in `find`.

    P.scaled_fp8                  the files of before: P's layers have M.scale_weight (and M.scale_input); no values, or
                                  two that say nothing of the weights
    M.comfy_quant                 since then, of each layer: an object of JSON, its bytes as U8
    _quantization_metadata        the same in the file's metadata, "layers": {M: object}

The object's "format" is one of ComfyUI's: the values of float8_… and int8_tensorwise are those of every other scaled
weight. Refused by name: all others, and weights that were turned before ("convrot"). nvfp4 and mxfp8 look like others'
and are not: of two values in a byte the first is in the high bits, and scales lie in the tiles of cuBLAS.

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
"""Formats of which a weight is its values times a scale."""

MOST_BYTES = 1 << 14
"""Of what is said of one layer; ComfyUI writes some dozens."""

MARKERS = _MARKER, _LAYER = "scaled_fp8", ".comfy_quant"
"""How the names of tensors end that say how others are quantized."""


def markers(infos: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors that say how others are quantized, and are not weights."""
    return [name for name, info in infos.items() if _is_of_layer(name, info) or _is_marker(name, info)]


def check(tensors: Mapping[str, LazyTensor], said: Mapping[object, object]) -> None:
    """Read what is said of each layer. Raises UnsupportedError for a format that is not known, EditError for what is
    not said as ComfyUI says it.
    """
    for name, tensor in tensors.items():
        if _is_of_layer(name, tensor.info):
            if tensor.info.nbytes > MOST_BYTES:
                raise _bad(name, f"of {tensor.info.nbytes:,} bytes is not a ComfyUI text")
            _check_layer(_object(bytes(tensor.read()), name), name)
    for layer, found in _of_metadata(said):
        _check_layer(found, layer)


def _is_of_layer(name: str, info: TensorInfo) -> bool:
    return name.endswith(_LAYER) and info.dtype is DType.U8


def _is_marker(name: str, info: TensorInfo) -> bool:
    return name.rpartition(".")[2] == _MARKER and info.numel <= 2


def _of_metadata(said: Mapping[object, object]) -> Iterator[tuple[str, Any]]:
    text = said.get(METADATA)
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
    turned = isinstance(found, dict) and found.get("convrot")
    if kind not in PLAIN or turned:
        called = f"{str(kind)[:80]!r}{', turned before' if turned else ''}"
        raise UnsupportedError(
            f"{name!r}: weights of ComfyUI's format {called} are not dequantized here, but those of {', '.join(PLAIN)}",
            hint="take the model's release in BF16 or in float8_e4m3fn",
        )
