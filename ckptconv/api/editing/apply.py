"""Applies `Edits` to a checkpoint. The result is a new checkpoint; no tensor is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.editing import dequantize, quantize
from ckptconv.api.editing.edits import Moves
from ckptconv.api.editing.lora import Lora
from ckptconv.api.editing.mixture import mixture_model
from ckptconv.api.editing.rebuild import rebuild
from ckptconv.api.editing.state import State
from ckptconv.api.editing.step_files import StepFiles
from ckptconv.api.evidence import check_config, merged_values
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of, shapes_of
from ckptconv.core.text import listed, plural
from ckptconv.edits.apply import label
from ckptconv.edits.composites import fixed_parts
from ckptconv.edits.dialects.to_gguf import is_kept_f32
from ckptconv.edits.dialects.to_mmproj import fixed_types
from ckptconv.edits.invert import inverted
from ckptconv.edits.name_rule import TO_GGUF, NameRule
from ckptconv.edits.parametrized.find import HOW, all_parametrized, removing_edits
from ckptconv.edits.rules import read_rules
from ckptconv.edits.select import name_edits
from ckptconv.edits.translate import left_alone
from ckptconv.edits.types import cast_edits, requested_for_all, requested_mixture
from ckptconv.errors import UsageError, located
from ckptconv.formats.gguf.filetype import update_file_type

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from os import PathLike

    from ckptconv.api.editing.edits import Edits
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.core.edit import Edit
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor

    Stated = Mapping[object, MetaNode]


MOST_PARAMETRIZATIONS = 4
"""So many are removed of one weight, such as those of a pruned one under spectral norm."""


def apply_edits(
    checkpoint: Checkpoint,
    edits: Edits,
    files: StepFiles | None = None,
    *,
    bare: bool = False,
    stated: Stated | None = None,
) -> tuple[Checkpoint, Moves]:
    """Apply all edits. Returns the new checkpoint, and where each of its tensors comes from.

    files:  those that the edits name.
    bare:   metadata may be left out.
    stated: what translations go by, instead of what the checkpoint and the files beside it say.

    Raises EditError, UsageError, and what reading a rules file raises.
    """
    if edits.reverse and all(isinstance(rule, NameRule | Lora) for rule in edits.steps):
        raise UsageError("there are no rules to reverse", hint="--reverse goes with --rules FILE")
    state = State.of(checkpoint, edits.select, edits.drop)
    if edits.for_llama_cpp:
        check_config(checkpoint)
    stated = _stated_values(checkpoint, edits) if stated is None else stated
    dequantizing = _dequantize(state, stated) if edits.dequantize else []
    if edits.remove_parametrizations:
        _remove_parametrizations(state, bare=bare)
    _apply_steps(state, edits, files or StepFiles(()), stated)
    _apply_casts(state, edits, dequantizing, stated)
    if dequantizing:
        state.findings += dequantize.left_quantized(state.tensors)
    if edits.quantize:
        _quantize(state, edits.quantize, stated)
    result = rebuild(state, bare=bare, in_one=bool(edits.dialects))
    if dequantizing:
        result.root = dequantize.without_quantization_keys(result.root)
        result = dequantize.without_keras_marks(result, dequantizing)
        if checkpoint.notes.quantized:
            result = dequantize.without_packed_parts(result, dequantizing)
    result.root = update_file_type(result.root, checkpoint.values(), result.values(), requested_mixture(edits.dtype))
    return result, Moves(state.origins, state.merged)


def _stated_values(checkpoint: Checkpoint, edits: Edits) -> Stated:
    """What the checkpoint and the files beside it say, if any edit depends on it."""
    return merged_values(checkpoint) if edits.dialects or edits.dequantize or edits.quantize else {}


def _dequantize(state: State, stated: Stated) -> Sequence[Edit]:
    """Make plain weights of quantized ones; returns the edits that do so."""
    selected = state.tensors
    edits = dequantize.edits_for(selected, stated, state.composites, state.source.notes)
    for edit in edits:
        state.apply(edit, "--dequantize")
    if edits:
        state.findings += dequantize.findings_about(edits, stated)
        state.source = dequantize.without_torchao_objects(state.source, edits, selected)
        state.source = dequantize.without_packed_pairs(state.source)
    return edits


def _remove_parametrizations(state: State, *, bare: bool) -> None:
    """Make plain weights of those that a network computes of several tensors."""
    edits: list[Edit] = []
    for _ in range(MOST_PARAMETRIZATIONS):
        edits += (found := removing_edits(shapes_of(state.tensors)))
        for edit in found:
            state.apply(edit, "--remove-parametrizations")
        if not all_parametrized(shapes_of(state.tensors)):
            break
    count = sum(len(edit.steps) for edit in edits)
    how = listed([HOW[str(scheme)] for scheme in dict.fromkeys(edit.details["scheme"] for edit in edits)])
    message = f"{plural(count, 'weight')} that {'is' if count == 1 else 'are'} {how} became plain"
    state.findings.append(Finding("parametrizations-removed", "info", "", message, None, str(count)))
    if state.extras and not bare:
        message = "tensors outside of the model, such as an optimizer's, are still those of the parts"
        state.findings.append(Finding("extras-of-parts", "warning", "", message, hint="--bare leaves them out"))


def _apply_steps(state: State, edits: Edits, files: StepFiles, stated: Stated) -> None:
    """Apply the name rules, adapters and rules files, in the order given."""
    for rule in edits.steps:
        if isinstance(rule, NameRule):
            if rule.how == "like":
                from ckptconv.api.editing.like import become_like

                become_like(state, rule.text, files.template(rule))
                continue
            if rule.how == "translate":
                state.findings += left_alone(rule.text, infos_of(state.tensors), stated)
            for edit in name_edits(rule, state.tensors, stated):
                state.apply(edit, f"--{rule.how} {rule.text!r}")
        elif isinstance(rule, Lora):
            state.merge(rule, files)
        else:
            _apply_rules(state, rule, reverse=edits.reverse)


def _apply_casts(state: State, edits: Edits, dequantizing: Sequence[Edit], stated: Stated) -> None:
    """Cast as asked for, and what the edits `dequantizing` made to the type that it should have."""
    stated_type = dequantize.stated_type(stated)
    types = dequantize.result_types(state.tensors, state.origins, dequantizing, stated_type, state.source)
    parts = fixed_parts(state.composites)
    castable = {name: tensor for name, tensor in state.tensors.items() if name not in parts}
    fixed, own_types = _fixed_types(edits, castable, stated)
    casts, findings = cast_edits(
        edits.dtype, castable, {**types, **own_types}, fixed,
        lambda: mixture_model(state.tensors, stated or state.source.metadata, to_gguf=edits.for_llama_cpp == TO_GGUF),
    )  # fmt: skip
    for edit in casts:
        state.apply(edit, "--dtype")
    state.findings += findings


def _fixed_types(
    edits: Edits, tensors: Mapping[str, LazyTensor], stated: Mapping[object, object]
) -> tuple[Collection[str], Mapping[str, DType]]:
    """The tensors whose type llama.cpp prescribes, which a type for all floats leaves out; and the prescribed types of
    those that must be cast. Raises UsageError for a mixture of types that does not apply to such a model.
    """
    if edits.for_llama_cpp == TO_GGUF:
        return [name for name, tensor in tensors.items() if is_kept_f32(name, len(tensor.info.shape))], {}
    if edits.to_mmproj:
        if mixture := requested_mixture(edits.dtype):
            raise UsageError(
                f"--dtype {mixture.name}: a mixture of types is for a language model, and not for a tower",
                hint="a --dtype that is one type, as F16 or Q8_0",
            )
        fixed = fixed_types(infos_of(tensors), stated, requested_for_all(edits.dtype))
        return fixed.keys(), fixed
    return (), {}


def _quantize(state: State, texts: Sequence[str], stated: Stated) -> None:
    """Unstack experts, then store the weights as quantizers do."""
    unstacking, unstack_findings = quantize.unstack_edits(state.tensors, texts, stated)
    for edit in unstacking:
        state.apply(edit, "--quantize")
    quantize.check_not_quantized(state.tensors, state.composites, state.source)
    edit, findings = quantize.quantize_edit(state.tensors, texts, stated)
    state.apply(edit, "--quantize")
    state.findings += [*unstack_findings, *findings]


def _apply_rules(state: State, path: str | PathLike[str], *, reverse: bool) -> None:
    with located(path):
        edits = read_rules(path)
        labels = [label(edit, number) for number, edit in enumerate(edits, 1)]
        if reverse:
            edits = inverted(edits)
            labels = [f"undoing {text}" for text in reversed(labels)]
        for edit, text in zip(edits, labels, strict=True):
            state.apply(edit, text)
