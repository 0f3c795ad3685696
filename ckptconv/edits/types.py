"""Which element type each tensor gets: what people type after ``--dtype``.

A type alone is for all floats, ``GLOB=TYPE`` for whatever the glob matches; the last that matches a tensor counts. What
cannot be of a block type (`edits.quantize`) stays as it is, and so do, where the type is for all, the tensors that
llama.cpp keeps as floats, by their names: norms, gates, short convolutions, positions.

Source of the latter: llama.cpp's src/llama-quant.cpp (`tensor_allows_quantization`), which convert_hf_to_gguf.py
(`prepare_tensors`) follows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import BLOCKS, DTYPES, DType
from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding, quoted
from ckptconv.edits.cast import FLOATS
from ckptconv.edits.quantize import QUANTIZED, check_quantizes, unfit
from ckptconv.edits.select import some
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor

    Tensors = Mapping[str, LazyTensor]

_KEPT = re.compile(
    r".*_norm\.weight.*|.*ffn_gate_inp.*|.*altup.*|.*laurel.*|.*per_layer_model_proj.*|.*ssm_conv1d.*"
    r"|.*shortconv\.conv\.weight|.*attn_rel_b\.weight|(.*\.)?position_embd\.weight|token_types\.weight"
    r"|.*time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|(\w+\.)?blk\.\d+\.(?!.*weight$).*"
)

_MIXTURE = re.compile(r"I?Q\d_K?_?[SML]|I?Q\d_[SML]|MXFP4_MOE")
"""What llama-quantize calls a mixture of types."""

_ALIASES = {
    "FLOAT64": "F64", "DOUBLE": "F64", "FLOAT32": "F32", "FLOAT": "F32", "FLOAT16": "F16", "HALF": "F16",
    "FP32": "F32", "FP16": "F16", "BFLOAT16": "BF16", "FLOAT8_E4M3FN": "F8_E4M3", "FLOAT8_E5M2": "F8_E5M2",
}  # fmt: skip
"""torch's words for types, which people type too."""

_NEW_NAMES = "names are those that the target gets: ckptconv convert --dry-run shows them"
_REST = "a --dtype F32 before it makes F32 of what stays, as llama.cpp's converter does"


def cast_edits(
    texts: Sequence[str], tensors: Tensors, types: Mapping[str, DType] | None = None, left: Container[str] = ()
) -> tuple[list[Edit], list[Finding]]:
    """The casts that `texts` ask for, and what to say of them; what none matches gets the type in `types`. A type alone
    is not for those that are `left`.

    Raises UsageError for an unknown type, UnsupportedError for one that is not cast to, EditError where a glob matches
    nothing, or nothing that can be of the type.
    """
    wanted: dict[str, DType] = dict(types or {})
    stay: dict[str, DType] = {}
    for text in texts:
        glob, equals, name = text.rpartition("=")
        dtype = _dtype(name, text)
        asked = some(glob, list(tensors), "--dtype", _NEW_NAMES) if equals else _floats(tensors, left)
        kept = [key for key in asked if dtype.block > 1 and _stays(key, tensors[key], dtype, by_name=not equals)]
        if kept and (len(kept) == len(asked) or (equals and not re.search(r"[*?\[]", glob))):
            raise _refused(text, kept, len(asked), tensors, dtype)
        wanted.update(dict.fromkeys((key for key in asked if key not in set(kept)), dtype))
        stay = {key: one for key, one in stay.items() if key not in set(asked)} | dict.fromkeys(kept, dtype)
    groups: dict[tuple[DType, DType], list[str]] = {}
    for key, dtype in wanted.items():
        before = tensors[key].info.dtype
        if before is not dtype:
            groups.setdefault((before, dtype), []).append(key)
    return [_edit(before, after, names) for (before, after), names in groups.items()], [
        *_told(stay, wanted, tensors), *_twice(groups),
    ]  # fmt: skip


def _edit(before: DType, after: DType, names: Sequence[str]) -> Edit:
    steps = tuple(Step((name,), (name,)) for name in names)
    return Edit("cast", (names[0],), (names[0],), {"from": before.name, "dtype": after.name}, steps)


def _floats(tensors: Tensors, left: Container[str]) -> list[str]:
    floats = (*FLOATS, *BLOCKS.values())
    return [key for key, tensor in tensors.items() if tensor.info.dtype in floats and key not in left]


def _stays(name: str, tensor: LazyTensor, dtype: DType, *, by_name: bool) -> bool:
    return bool(unfit(tensor.info, dtype)) or (by_name and _KEPT.fullmatch(name) is not None)


def _refused(text: str, names: Sequence[str], asked: int, tensors: Tensors, dtype: DType) -> EditError:
    problem = f"{names[0]!r} {unfit(tensors[names[0]].info, dtype)}, and cannot be {dtype}"
    if asked > 1:
        problem = f"none of {asked:,} tensors can be {dtype}, which is for {_takes(dtype)}"
    return EditError(
        f"--dtype {text!r}: {problem}",
        hint="leave it as it is, or choose a type without blocks for it, as F16" if asked == 1
        else "Q8_0 and Q4_0 have blocks of 32" if dtype.block > 32 else "a type without blocks, as F16",
    )  # fmt: skip


def _takes(dtype: DType) -> str:
    return f"matrices whose rows are whole blocks of {dtype.block}"


def _told(stay: Mapping[str, DType], wanted: Mapping[str, DType], tensors: Tensors) -> list[Finding]:
    """Which tensors stay what they are, for each type that they were to have."""
    found = []
    for dtype in dict.fromkeys(stay.values()):
        names = [name for name, one in stay.items() if one is dtype]
        few = f"{len(names):,} tensor{'s are' if len(names) != 1 else ' is'}"
        fit = any(not unfit(tensors[name].info, dtype) for name in names)
        kept = ", and llama.cpp keeps some as floats by their names" if fit else ""
        message = f"{few} not quantized: {dtype} is for {_takes(dtype)}{kept}: {quoted(names)}"
        hint = None if any(name in wanted for name in names) else _REST
        found.append(Finding("not-quantized", "info", names[0], message, dtype.name, ", ".join(names), hint))
    return found


def _twice(groups: Mapping[tuple[DType, DType], Sequence[str]]) -> list[Finding]:
    """A warning for tensors that were quantized before."""
    found = []
    for (before, after), names in groups.items():
        if before.block > 1 and after.block > 1:
            many = f"{len(names):,} tensor{'s that were' if len(names) != 1 else ' that was'}"
            message = f"{many} {before} {'are' if len(names) != 1 else 'is'} quantized again, to {after}: errors add up"
            found.append(Finding("requantized", "warning", names[0], message, before.name, after.name))
    return found


def _dtype(name: str, text: str) -> DType:
    upper = name.upper().removeprefix("TORCH.")
    dtype = DTYPES.get(_ALIASES.get(upper, upper))
    if dtype is not None and dtype.kind == "block":
        check_quantizes(dtype)
        return dtype
    if _MIXTURE.fullmatch(upper):
        base = upper.rpartition("_")[0]
        near = f"--dtype {base} quantizes all to that type; or " * (base in QUANTIZED)
        raise UsageError(
            f"--dtype {text!r}: {upper} is a mixture of types that llama.cpp's llama-quantize makes",
            hint=f"{near}convert to F16, and let llama-quantize make {upper} of that",
        )
    if dtype is None or dtype.kind not in ("float", "int", "uint", "bool"):
        floats = ", ".join(one.name for one in FLOATS)
        raise UsageError(
            f"--dtype {text!r}: there is no element type {name!r} to cast to",
            hint=f"such as {floats}; for a GGUF also {', '.join(QUANTIZED)}",
        )
    return dtype
