"""Decides which element type each tensor gets, from the values of ``--dtype``.

A type alone is for all floats, ``GLOB=TYPE`` for whatever the glob matches, and a llama.cpp mixture of types
(`edits.ggml.mixtures`) for a whole model. The last value that matches a tensor counts.

Tensors that cannot have a block type (`edits.ggml.quantize`) stay as they are. If the type is for all floats, so do
those that llama.cpp keeps as floats because of their names: norms, gates, short convolutions, positions.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import BLOCKS, DTYPES, DType
from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural, quoted
from ckptconv.edits.cast import FLOATS
from ckptconv.edits.ggml.mixtures import MIXTURES, Mixture, is_kept_float, types_in, unfit_for_blocks
from ckptconv.edits.ggml.quantize import QUANTIZED, check_quantizes, unfit
from ckptconv.edits.select import matching_some
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.ggml.mixtures import Model

    Tensors = Mapping[str, LazyTensor]

_MIXTURE = re.compile(r"(MOSTLY_\w+|I?Q\d_K?_?[SML]|I?Q\d_[SML]|MXFP4_MOE)")
"""Names that llama-quantize has for mixtures of types."""

_ALIASES = {
    "FLOAT64": "F64", "DOUBLE": "F64", "FLOAT32": "F32", "FLOAT": "F32", "FLOAT16": "F16", "HALF": "F16",
    "FP32": "F32", "FP16": "F16", "BFLOAT16": "BF16", "FLOAT8_E4M3FN": "F8_E4M3", "FLOAT8_E5M2": "F8_E5M2",
}  # fmt: skip
"""Names of torch's, and other common ones, for types."""

_NEW_NAMES = "names are those that the target gets: ckptconv convert --dry-run shows them"
_REST = "a --dtype F32 before it makes F32 of what stays, as llama.cpp's converter does"


def requested_mixture(texts: Sequence[str]) -> Mixture | None:
    """The mixture that ``--dtype`` asks for; None if it asks for none, or for another type for all after it."""
    alone = [text for text in texts if "=" not in text]
    return MIXTURES.get(alone[-1].upper()) if alone else None


def cast_edits(
    texts: Sequence[str],
    tensors: Tensors,
    defaults: Mapping[str, DType] | None = None,
    exempt: Container[str] = (),
    model: Callable[[], Model] | None = None,
) -> tuple[list[Edit], list[Finding]]:
    """The casts that `texts` ask for, and findings about them.

    defaults: types of tensors that none of `texts` matches.
    exempt:   tensors that a type alone, or a mixture, does not change.
    model:    describes the model; called only for a mixture.

    Raises UsageError for an unknown type, UnsupportedError for one that is not cast to, EditError where a glob matches
    nothing, or nothing that can have the type, and what `model` raises.
    """
    wanted: dict[str, DType] = dict(defaults or {})
    unfitting: dict[str, DType] = {}  # tensors that stay as they are, and the type that was asked for
    mixture_findings: list[Finding] = []
    for text in texts:
        if text.upper() in MIXTURES and model is not None:
            chosen = _types_in_mixture(MIXTURES[text.upper()], tensors, exempt, model())
            wanted, unfitting = {**wanted, **chosen}, {}
            mixture_findings = _mixture_findings(MIXTURES[text.upper()], tensors, chosen)
            continue
        glob, equals, name = text.rpartition("=")
        dtype = _parse_dtype(name, text)
        if equals:
            matched = matching_some(glob, list(tensors), "--dtype", _NEW_NAMES)
        else:
            matched = _float_names(tensors, exempt)
            mixture_findings = []  # a type for all overrules a mixture
        kept = [key for key in matched if dtype.block > 1 and _stays(key, tensors[key], dtype, by_name=not equals)]
        if kept and (len(kept) == len(matched) or (equals and not re.search(r"[*?\[]", glob))):
            raise _nothing_fits(text, kept, len(matched), tensors, dtype)
        wanted.update(dict.fromkeys((key for key in matched if key not in set(kept)), dtype))
        unfitting = {key: old for key, old in unfitting.items() if key not in set(matched)}
        unfitting |= dict.fromkeys(kept, dtype)
    groups: dict[tuple[DType, DType], list[str]] = {}
    for key, dtype in wanted.items():
        before = tensors[key].info.dtype
        if before is not dtype:
            groups.setdefault((before, dtype), []).append(key)
    casts = [_cast_edit(before, after, names) for (before, after), names in groups.items()]
    findings = [*mixture_findings, *_unfitting_findings(unfitting, wanted, tensors), *_requantized_findings(groups)]
    return casts, findings


def _types_in_mixture(mixture: Mixture, tensors: Tensors, exempt: Container[str], model: Model) -> dict[str, DType]:
    """The type of each tensor in a mixture, which counts exempt tensors too but leaves them as they are."""
    infos = {name: tensors[name].info for name in _float_names(tensors, ())}
    chosen = {name: DTYPES[kind] for name, kind in types_in(mixture, model, infos).items() if name not in exempt}
    for dtype in dict.fromkeys(chosen.values()):
        if dtype.kind == "block":
            check_quantizes(dtype)
    return chosen


def _mixture_findings(mixture: Mixture, tensors: Tensors, chosen: Mapping[str, DType]) -> list[Finding]:
    """How many tensors get each type, and those whose rows are not whole blocks of the mixture's main type."""
    counts = Counter(chosen.values())
    shown = ", ".join(f"{dtype} ×{count:,}" for dtype, count in counts.most_common()) or "nothing"
    message = f"{mixture.name}, as llama-quantize makes it without an importance matrix: {shown}"
    found = [Finding("mixture", "info", "", message, mixture.name)]
    odd = [name for name in chosen if unfit_for_blocks(tensors[name].info, mixture.most)]
    if odd:
        block = DTYPES[mixture.most].block
        few = f"{plural(len(odd), 'tensor has', 'tensors have')} rows that are no whole blocks of {block}"
        names = listed([f"{name!r} {chosen[name]}" for name in odd], 4)
        found.append(Finding("not-quantized", "info", odd[0], f"{few}, and get other types: {names}", mixture.most))
    return found


def requested_for_all(texts: Sequence[str]) -> DType | None:
    """The type that ``--dtype`` asks for all floats, or None. Raises as `cast_edits`."""
    alone = [text for text in texts if "=" not in text]
    return _parse_dtype(alone[-1], alone[-1]) if alone else None


def _cast_edit(before: DType, after: DType, names: Sequence[str]) -> Edit:
    steps = tuple(Step((name,), (name,)) for name in names)
    return Edit("cast", (names[0],), (names[0],), {"from": before.name, "dtype": after.name}, steps)


def _float_names(tensors: Tensors, exempt: Container[str]) -> list[str]:
    floats = (*FLOATS, *BLOCKS.values())
    return [key for key, tensor in tensors.items() if tensor.info.dtype in floats and key not in exempt]


def _stays(name: str, tensor: LazyTensor, dtype: DType, *, by_name: bool) -> bool:
    return bool(unfit(tensor.info, dtype)) or (by_name and is_kept_float(name))


def _nothing_fits(text: str, names: Sequence[str], asked: int, tensors: Tensors, dtype: DType) -> EditError:
    """The error where none of the tensors that were asked for can have the type, or the only one named cannot."""
    by_name = [name for name in names if not unfit(tensors[name].info, dtype)]
    if by_name:
        return EditError(
            f"--dtype {text!r}: none of {plural(asked, 'tensor')} becomes {dtype}: llama.cpp keeps those as floats",
            hint=f"--dtype '{by_name[0]}={dtype}' asks by name, which counts whatever llama.cpp does",
        )
    problem = f"{names[0]!r} {unfit(tensors[names[0]].info, dtype)}, and cannot be {dtype}"
    if asked > 1:
        problem = f"none of {asked:,} tensors can be {dtype}, which is for {_fitting_shapes(dtype)}"
    if asked == 1:
        hint = "leave it as it is, or choose a type without blocks for it, as F16"
    elif dtype.block > 32:
        hint = "Q8_0 and Q4_0 have blocks of 32"
    else:
        hint = "a type without blocks, as F16"
    return EditError(f"--dtype {text!r}: {problem}", hint=hint)


def _fitting_shapes(dtype: DType) -> str:
    return f"matrices whose rows are whole blocks of {dtype.block}"


def _unfitting_findings(unfitting: Mapping[str, DType], wanted: Mapping[str, DType], tensors: Tensors) -> list[Finding]:
    """A finding for each type, with the tensors that should have had it and stay as they are."""
    found = []
    for dtype in dict.fromkeys(unfitting.values()):
        names = [name for name, other in unfitting.items() if other is dtype]
        few = plural(len(names), "tensor is", "tensors are")
        fit = any(not unfit(tensors[name].info, dtype) for name in names)
        kept = ", and llama.cpp keeps some as floats by their names" if fit else ""
        message = f"{few} not quantized: {dtype} is for {_fitting_shapes(dtype)}{kept}: {quoted(names)}"
        hint = None if any(name in wanted for name in names) else _REST
        found.append(Finding("not-quantized", "info", names[0], message, dtype.name, ", ".join(names), hint))
    return found


def _requantized_findings(groups: Mapping[tuple[DType, DType], Sequence[str]]) -> list[Finding]:
    """A warning for tensors that were quantized already, and now lose once more."""
    found = []
    for (before, after), names in groups.items():
        if before.block > 1 and after.block > 1:
            many = plural(len(names), "tensor that was", "tensors that were")
            message = f"{many} {before} {'are' if len(names) != 1 else 'is'} quantized again, to {after}: errors add up"
            found.append(Finding("requantized", "warning", names[0], message, before.name, after.name))
    return found


def _parse_dtype(name: str, text: str) -> DType:
    """The type that a user means by `name`; `text` is the whole value of ``--dtype``, for errors."""
    upper = name.upper().removeprefix("TORCH.")
    dtype = DTYPES.get(_ALIASES.get(upper, upper))
    if dtype is not None and dtype.kind == "block":
        check_quantizes(dtype)
        return dtype
    if upper in MIXTURES:
        raise UsageError(
            f"--dtype {text!r}: {upper} is a mixture of types, and for a whole model",
            hint=f"--dtype {upper} by itself; --dtype 'GLOB=TYPE' after it overrules it for some",
        )
    if _MIXTURE.fullmatch(upper):
        base = upper.removeprefix("MOSTLY_").rpartition("_")[0]
        near = f"--dtype {base} quantizes all to that type; or " * (base in QUANTIZED)
        raise UsageError(
            f"--dtype {text!r}: {upper} is a mixture of types that is not made here",
            hint=f"{near}convert to F16, and let llama.cpp's llama-quantize make {upper} of that; made are "
            + ", ".join(MIXTURES),
        )
    if dtype is None or dtype.kind not in ("float", "int", "uint", "bool"):
        floats = ", ".join(known.name for known in FLOATS)
        raise UsageError(
            f"--dtype {text!r}: there is no element type {name!r} to cast to",
            hint=f"such as {floats}; for a GGUF also {', '.join(QUANTIZED)}, and mixtures as Q4_K_M",
        )
    return dtype
