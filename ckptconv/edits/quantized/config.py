"""What a configuration says about quantized weights: `quantization_config` in a config.json or in the metadata.

    quant_method        schemes                     what else is taken from it
    fp8                 scaled                      weight_block_size
    fbgemm_fp8          scaled
    compressed-tensors  scaled, packed, fp4         config_groups: weights' num_bits, block_structure; format
    modelopt            scaled, fp4                 quant_algo
    mxfp4               mxfp4
    gptq                gptq                        bits, checkpoint_format (gptq: zeros are stored less one; gptq_v2)
    awq                 awq                         bits, version (gemm alone)
    bitsandbytes        bnb-4bit, bnb-int8
    hqq                 hqq
    torchao             torchao
    none: MLX           mlx                         group_size, bits, mode; and entries for single modules

MLX's configuration is under `quantization`, and mlx-lm writes a copy of it. A `quantization_config` of another method
beside it says how the weights were quantized before. A module's own entry is a mapping like the whole, in which a
missing mode means affine, or it is false.

Every other method is refused by name. Sources: transformers/utils/quantization_config.py; compressed-tensors'
quant_config.py and quant_scheme.py; GPTQModel's quantization/config.py; mlx-lm's utils.py, mlx.nn's quantized.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptconv.edits.quantized.packing import AFFINE, USUAL, Packing
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

METHODS: dict[str, tuple[str, ...]] = {
    "fp8": ("scaled",), "fbgemm_fp8": ("scaled",), "compressed-tensors": ("scaled", "packed", "fp4"),
    "modelopt": ("scaled", "fp4"), "mxfp4": ("mxfp4",), "gptq": ("gptq",), "awq": ("awq",),
    "bitsandbytes": ("bnb-4bit", "bnb-int8"), "hqq": ("hqq",), "torchao": ("torchao",),
    "mlx": ("mlx",),
}  # fmt: skip
"""A configuration's name of a method → the schemes that its weights may have."""

MLX, HQQ = "mlx", "hqq"

KEYS = ("quantization_config", "compression_config")
"""The keys of a configuration; the second is compressed-tensors' older one."""

MLX_KEY = "quantization"
"""MLX's key. Other configurations use it for other things; `mlx_settings` distinguishes them."""

FORMATS = (
    None, "dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
"""The formats of compressed-tensors that are known."""

HINT = "load it with the library that quantized it, and save what its dequantize() gives"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is stated; every field except `method` may be unknown.

    zeros:    how GPTQ's zero points are stored, "v1" or "v2".
    packing:  how MLX packed modules without an entry. packings: the entries, by module, as they are in the file.
    """

    method: str = ""
    bits: int | None = None
    block: tuple[int, int] | None = None
    zeros: str = "v1"
    packing: Packing | None = None
    packings: Mapping[object, object] = field(default_factory=dict)

    def check(self, scheme: str, name: str) -> None:
        """Raise EditError for a scheme of another method."""
        if self.method and scheme not in METHODS[self.method]:
            raise EditError(
                f"--dequantize: the configuration says {self.method!r}, and {name!r} is stored as {scheme}",
                hint="the config.json beside the file may be another model's",
            )

    def need_gptq(self) -> None:
        """Raise EditError unless GPTQ is stated: tensors do not show which of its two kinds of zero points it has."""
        if self.method != "gptq":
            raise EditError(
                "--dequantize: tensors alone do not say which of GPTQ's two kinds of zero points they have",
                hint="a config.json beside the file, with a quantization_config, does",
            )

    def packing_of(self, module: str, possible: list[Packing], shapes: str) -> Packing:
        """How MLX packed a module, of the packings that its shapes allow. Raises EditError if that is not known."""
        entry = self.packings.get(module)
        has_entry = isinstance(entry, dict) or entry is False
        stated = None if has_entry else self.packing
        if isinstance(entry, dict):
            stated = _packing(entry)
        if stated in possible and stated is not None:
            return stated
        if len(possible) == 1 and not has_entry:  # as in mlx-lm: without an entry, the shapes count
            return possible[0]
        allowed = " or ".join(map(str, possible))
        if not possible:
            problem, hint = f"{module!r} is not an MLX weight: words of shape {shapes}", "the file may be damaged"
        elif stated is None and not has_entry:
            problem = f"nothing says whether {module!r} is of {allowed}"
            hint = "a config.json beside the file does, with a quantization"
        else:
            problem = f"the configuration says that {module!r} is {stated or 'not quantized'}, and its shapes {allowed}"
            hint = "the config.json beside the file may be another model's"
        raise EditError(f"--dequantize: {problem}", hint=hint)


def read_settings(document: Mapping[object, object]) -> Settings:
    """The settings in a configuration or metadata. Raises UnsupportedError for an unknown method, or kind of one."""
    mlx = mlx_settings(document)
    if mlx is not None:
        return Settings(MLX, packing=_packing(mlx), packings=mlx)
    found = _quantization_config(document)
    if found is None:
        return Settings()
    method = found.get("quant_method", "gptq" if "desc_act" in found else "compressed-tensors")
    if not isinstance(method, str) or method not in METHODS:
        known = ", ".join(METHODS)
        raise UnsupportedError(
            f"weights quantized by {str(method)[:80]!r} are not dequantized here, but those of {known}", hint=HINT
        )
    match method:
        case "compressed-tensors":
            return _compressed_tensors(found)
        case "gptq":
            form = found.get("checkpoint_format", "gptq")
            if form not in ("gptq", "gptq_v2"):
                raise UnsupportedError(f"GPTQ's format {str(form)[:80]!r} is not dequantized here", hint=HINT)
            return Settings(method, _int(found.get("bits")), zeros="v2" if form == "gptq_v2" else "v1")
        case "awq":
            version = str(found.get("version", found.get("format", "gemm"))).lower()
            if version != "gemm":
                raise UnsupportedError(f"AWQ's layout {version[:80]!r} is not dequantized here", hint=HINT)
            return Settings(method, _int(found.get("bits", found.get("w_bit"))))
    return Settings(method, block=_pair(found.get("weight_block_size")))


def mlx_settings(document: Mapping[Any, object]) -> Mapping[object, object] | None:
    """MLX's settings in a configuration; None if it has none."""
    for part in _parts(document):
        for key in (MLX_KEY, *KEYS[:1]):
            found = part.get(key)
            if (
                isinstance(found, dict)
                and type(found.get("group_size")) is type(found.get("bits")) is int
                and not found.keys() & {"quant_method", "desc_act", "zero_point"}
            ):
                return found
    return None


def _parts(document: Mapping[Any, object]) -> list[Mapping[object, object]]:
    """The configuration, its part about the text model, and a configuration inside it."""
    return [part for part in (document, document.get("text_config"), document.get("config")) if isinstance(part, dict)]


def _packing(found: Mapping[object, object]) -> Packing:
    mode = found.get("mode", AFFINE)
    if not isinstance(mode, str) or mode not in USUAL:
        raise UnsupportedError(
            f"MLX's mode {str(mode)[:80]!r} is not dequantized here, but {', '.join(USUAL)}", hint=HINT
        )
    bits, group = (_int(found.get(key, usual)) for key, usual in zip(("bits", "group_size"), USUAL[mode], strict=True))
    if bits is None or group is None or not (packing := Packing(mode, bits, group)).known:
        raise UnsupportedError(
            f"MLX's weights of mode {mode!r}, {bits} bits and groups of {group} are not dequantized here", hint=HINT
        )
    return packing


def _quantization_config(document: Mapping[object, object]) -> Mapping[object, object] | None:
    """The quantization_config at its top, or in its part about the text model."""
    for part in _parts(document):
        for key in KEYS:
            inside = part.get(key)
            if isinstance(inside, dict) and inside:
                return inside
    return None


def _compressed_tensors(found: Mapping[object, object]) -> Settings:
    by_name = found.get("config_groups")
    groups = [group for group in by_name.values() if isinstance(group, dict)] if isinstance(by_name, dict) else []
    weights = [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]
    formats = [found.get("format"), *(group.get("format") for group in groups)]
    sparse = found.get("sparsity_config")
    formats += [sparse.get("format")] if isinstance(sparse, dict) else []
    for form in formats:
        if not isinstance(form, str | None) or form not in FORMATS:
            raise UnsupportedError(f"compressed-tensors' format {str(form)[:80]!r} is not dequantized here", hint=HINT)
    bits = {_int(settings.get("num_bits")) for settings in weights}
    blocks = {_pair(settings.get("block_structure")) for settings in weights}
    return Settings(
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
