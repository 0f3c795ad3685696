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
    hqq                 hqq
    torchao             torchao
    none: MLX           mlx                         group_size, bits, mode; by a module's name what is said of it alone

MLX's stands under `quantization`, of which mlx-lm makes a copy; what a `quantization_config` beside it says of another
method is what the weights were before. A module's own entry is such a mapping, in which a mode that is not named is
affine, or false.

Every other method is refused by its name. Sources: transformers/utils/quantization_config.py; compressed-tensors'
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
"""The schemes that weights may be of, by what a configuration calls the method."""

MLX, HQQ = "mlx", "hqq"

KEYS = ("quantization_config", "compression_config")
"""Where a configuration says it; the second is compressed-tensors' older word."""

MLX_KEY = "quantization"
"""Where MLX says it. Others' configurations use the word for other things: `mlx_said` knows which."""

FORMATS = (
    None, "dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
"""compressed-tensors' formats that are known."""

HINT = "load it with the library that quantized it, and save what its dequantize() gives"


@dataclass(frozen=True, slots=True)
class Said:
    """What is said; every field but `method` may be unknown.

    zeros: how GPTQ's zero points are stored, "v1" or "v2".
    packing: how MLX packed what has no entry of its own; packings: the entries by module, as they are said.
    """

    method: str = ""
    bits: int | None = None
    block: tuple[int, int] | None = None
    zeros: str = "v1"
    packing: Packing | None = None
    packings: Mapping[object, object] = field(default_factory=dict)

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

    def packing_of(self, module: str, ways: list[Packing], shapes: str) -> Packing:
        """Which of the ways, that shapes allow, MLX packed a module in. Raises EditError where that is not known."""
        entry = self.packings.get(module)
        own = isinstance(entry, dict) or entry is False
        said = _packing(entry) if isinstance(entry, dict) else None if own else self.packing
        if said in ways and said is not None:
            return said
        if len(ways) == 1 and not own:  # as mlx-lm has it: what has no entry is what its shapes say
            return ways[0]
        allowed = " or ".join(map(str, ways))
        if not ways:
            problem, hint = f"{module!r} is not an MLX weight: words of shape {shapes}", "the file may be damaged"
        elif said is None and not own:
            problem = f"nothing says whether {module!r} is of {allowed}"
            hint = "a config.json beside the file does, with a quantization"
        else:
            problem = f"the configuration says that {module!r} is {said or 'not quantized'}, and its shapes {allowed}"
            hint = "the config.json beside the file may be another model's"
        raise EditError(f"--dequantize: {problem}", hint=hint)


def said_in(document: Mapping[object, object]) -> Said:
    """What a configuration says, or metadata. Raises UnsupportedError for a method, or a kind of it, not known here."""
    mlx = mlx_said(document)
    if mlx is not None:
        return Said(MLX, packing=_packing(mlx), packings=mlx)
    found = _found(document)
    if found is None:
        return Said()
    method = found.get("quant_method", "gptq" if "desc_act" in found else "compressed-tensors")
    if not isinstance(method, str) or method not in METHODS:
        known = ", ".join(METHODS)
        raise UnsupportedError(
            f"weights quantized by {str(method)[:80]!r} are not dequantized here, but those of {known}", hint=HINT
        )
    match method:
        case "compressed-tensors":
            return _compressed(found)
        case "gptq":
            form = found.get("checkpoint_format", "gptq")
            if form not in ("gptq", "gptq_v2"):
                raise UnsupportedError(f"GPTQ's format {str(form)[:80]!r} is not dequantized here", hint=HINT)
            return Said(method, _int(found.get("bits")), zeros="v2" if form == "gptq_v2" else "v1")
        case "awq":
            version = str(found.get("version", found.get("format", "gemm"))).lower()
            if version != "gemm":
                raise UnsupportedError(f"AWQ's layout {version[:80]!r} is not dequantized here", hint=HINT)
            return Said(method, _int(found.get("bits", found.get("w_bit"))))
    return Said(method, block=_pair(found.get("weight_block_size")))


def mlx_said(document: Mapping[Any, object]) -> Mapping[object, object] | None:
    """What MLX says in a configuration of how the weights are quantized; None where it is not MLX's."""
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
    """Its top, the part that is of the text, and a configuration that is in it."""
    return [part for part in (document, document.get("text_config"), document.get("config")) if isinstance(part, dict)]


def _packing(found: Mapping[object, object]) -> Packing:
    mode = found.get("mode", AFFINE)
    if not isinstance(mode, str) or mode not in USUAL:
        raise UnsupportedError(
            f"MLX's mode {str(mode)[:80]!r} is not dequantized here, but {', '.join(USUAL)}", hint=HINT
        )
    bits, group = (_int(found.get(key, usual)) for key, usual in zip(("bits", "group_size"), USUAL[mode], strict=True))
    if bits is None or group is None or not (way := Packing(mode, bits, group)).known:
        raise UnsupportedError(
            f"MLX's weights of mode {mode!r}, {bits} bits and groups of {group} are not dequantized here", hint=HINT
        )
    return way


def _found(document: Mapping[object, object]) -> Mapping[object, object] | None:
    """What stands at its top, or in the part that is of the text."""
    for part in _parts(document):
        for key in KEYS:
            inside = part.get(key)
            if isinstance(inside, dict) and inside:
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
            raise UnsupportedError(f"compressed-tensors' format {str(form)[:80]!r} is not dequantized here", hint=HINT)
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
