"""What a configuration says of how weights are quantized: `quantization_config` in a config.json or in the metadata.

    quant_method        schemes                     what else is taken from it
    fp8                 scaled                      weight_block_size
    fbgemm_fp8          scaled
    compressed-tensors  scaled, packed, fp4         config_groups: weights' num_bits, block_structure; format
    modelopt            scaled, fp4                 quant_algo
    mxfp4               mxfp4
    gptq                gptq                        bits, checkpoint_format (gptq: zeros are stored less one; gptq_v2)
    awq                 awq                         bits, version (gemm alone)
    bitsandbytes        bnb-4bit, bnb-int8

Every other method is refused by its name. Sources: transformers/utils/quantization_config.py; compressed-tensors'
quant_config.py and quant_scheme.py; GPTQModel's quantization/config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

METHODS: dict[str, tuple[str, ...]] = {
    "fp8": ("scaled",), "fbgemm_fp8": ("scaled",), "compressed-tensors": ("scaled", "packed", "fp4"),
    "modelopt": ("scaled", "fp4"), "mxfp4": ("mxfp4",), "gptq": ("gptq",), "awq": ("awq",),
    "bitsandbytes": ("bnb-4bit", "bnb-int8"),
}  # fmt: skip
"""The schemes that weights may be of, by what a configuration calls the method."""

KEYS = ("quantization_config", "compression_config")
"""Where a configuration says it; the second is compressed-tensors' older word."""

FORMATS = (
    None, "dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
"""compressed-tensors' formats that are known."""

_HINT = "load it with the library that quantized it, and save what its dequantize() gives"


@dataclass(frozen=True, slots=True)
class Said:
    """What is said; every field but `method` may be unknown.

    zeros: how GPTQ's zero points are stored, "v1" or "v2".
    """

    method: str = ""
    bits: int | None = None
    block: tuple[int, int] | None = None
    zeros: str = "v1"

    def check(self, scheme: str, name: str) -> None:
        """Raise EditError for a scheme that is another method's."""
        if self.method and scheme not in METHODS[self.method]:
            raise EditError(
                f"--dequantize: the configuration says {self.method!r}, and {name!r} is stored as {scheme}",
                hint="the config.json beside the file may be another model's",
            )

    def need_gptq(self) -> None:
        """Raise EditError unless it is said that it is GPTQ: of its two kinds of zero points, tensors tell neither."""
        if self.method != "gptq":
            raise EditError(
                "--dequantize: tensors alone do not say which of GPTQ's two kinds of zero points they have",
                hint="a config.json beside the file, with a quantization_config, does",
            )


def said_in(document: Mapping[object, object]) -> Said:
    """What a configuration says, or metadata. Raises UnsupportedError for a method, or a kind of it, not known here."""
    found = _found(document)
    if found is None:
        return Said()
    method = found.get("quant_method", "gptq" if "desc_act" in found else "compressed-tensors")
    if not isinstance(method, str) or method not in METHODS:
        known = ", ".join(METHODS)
        raise UnsupportedError(
            f"weights quantized by {str(method)[:80]!r} are not dequantized here, but those of {known}", hint=_HINT
        )
    match method:
        case "compressed-tensors":
            return _compressed(found)
        case "gptq":
            form = found.get("checkpoint_format", "gptq")
            if form not in ("gptq", "gptq_v2"):
                raise UnsupportedError(f"GPTQ's format {str(form)[:80]!r} is not dequantized here", hint=_HINT)
            return Said(method, _int(found.get("bits")), zeros="v2" if form == "gptq_v2" else "v1")
        case "awq":
            version = str(found.get("version", found.get("format", "gemm"))).lower()
            if version != "gemm":
                raise UnsupportedError(f"AWQ's layout {version[:80]!r} is not dequantized here", hint=_HINT)
            return Said(method, _int(found.get("bits", found.get("w_bit"))))
    return Said(method, block=_pair(found.get("weight_block_size")))


def _found(document: Mapping[object, object]) -> Mapping[object, object] | None:
    """What stands at its top, or in the part that is of the text."""
    for part in (document, document.get("text_config"), document.get("config")):
        for key in KEYS:
            if isinstance(part, dict) and isinstance(part.get(key), dict) and part[key]:
                inside: Mapping[object, object] = part[key]
                return inside
    return None


def _compressed(found: Mapping[object, object]) -> Said:
    said = found.get("config_groups")
    groups = [one for one in said.values() if isinstance(one, dict)] if isinstance(said, dict) else []
    weights = [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]
    formats = [found.get("format"), *(group.get("format") for group in groups)]
    sparse = found.get("sparsity_config")
    formats += [sparse.get("format")] if isinstance(sparse, dict) else []
    for form in formats:
        if not isinstance(form, str | None) or form not in FORMATS:
            raise UnsupportedError(f"compressed-tensors' format {str(form)[:80]!r} is not dequantized here", hint=_HINT)
    bits = {_int(one.get("num_bits")) for one in weights}
    blocks = {_pair(one.get("block_structure")) for one in weights}
    return Said(
        "compressed-tensors", next(iter(bits), None) if len(bits) == 1 else None,
        next(iter(blocks), None) if len(blocks) == 1 else None,
    )  # fmt: skip


def _int(value: object) -> int | None:
    return value if type(value) is int else None


def _pair(value: object) -> tuple[int, int] | None:
    match value:
        case [int() as high, int() as wide] if high > 0 < wide:
            return high, wide
    return None
