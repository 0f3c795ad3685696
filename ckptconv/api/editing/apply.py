"""Doing what `Edits` ask for: a checkpoint becomes another, and no tensor is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.editing import dequantize, quantize
from ckptconv.api.editing.edits import Moves
from ckptconv.api.editing.lora import Adapters, Lora
from ckptconv.api.editing.mixture import model_of
from ckptconv.api.editing.rebuilt import rebuilt
from ckptconv.api.editing.state import State
from ckptconv.api.evidence import check_config, merged_values
from ckptconv.core.tensor import infos_of
from ckptconv.edits.apply import label
from ckptconv.edits.composites import fixed_parts
from ckptconv.edits.dialects.to_gguf import is_kept_f32
from ckptconv.edits.dialects.to_mmproj import fixed_types
from ckptconv.edits.invert import inverted
from ckptconv.edits.name_rule import TO_GGUF, NameRule
from ckptconv.edits.rules import read_rules
from ckptconv.edits.select import name_edits
from ckptconv.edits.translate import left_alone
from ckptconv.edits.types import asked_mixture, asked_of_all, cast_edits
from ckptconv.errors import UsageError, located
from ckptconv.formats.gguf.filetype import told_types

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from os import PathLike

    from ckptconv.api.editing.edits import Edits
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.core.edit import Edit
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor

    Said = Mapping[object, MetaNode]


def edited(
    checkpoint: Checkpoint,
    wanted: Edits,
    adapters: Adapters | None = None,
    *,
    bare: bool = False,
    said: Said | None = None,
) -> tuple[Checkpoint, Moves]:
    """The checkpoint after `wanted`, no tensor read, and where each of its tensors comes from. With `bare`, metadata
    may be left out. `adapters` are those of `wanted`, opened. `said` is what counts for translations instead of what
    the checkpoint and the files beside it say.

    Raises EditError, UsageError, and what reading a rules file raises.
    """
    if wanted.reverse and all(isinstance(rule, NameRule | Lora) for rule in wanted.steps):
        raise UsageError("there are no rules to reverse", hint="--reverse goes with --rules FILE")
    state = State.of(checkpoint, wanted.select, wanted.drop)
    if wanted.for_llama_cpp:
        check_config(checkpoint)
    said = _said(checkpoint, wanted) if said is None else said
    plain = _make_plain(state, said) if wanted.dequantize else []
    _make_steps(state, wanted, adapters or Adapters(()), said)
    _make_casts(state, wanted, plain, said)
    state.told += dequantize.left_quantized(state.tensors) if plain else []
    if wanted.quantize:
        _make_quantized(state, wanted.quantize, said)
    made = rebuilt(state, bare=bare, in_one=bool(wanted.dialects))
    if plain:
        made.root = dequantize.unclaimed(made.root)
        made = dequantize.unpacked(made, plain) if checkpoint.notes.quantized else made
    made.root = told_types(made.root, checkpoint.values(), made.values(), asked_mixture(wanted.dtype))
    return made, Moves(state.origins, state.merged)


def _said(checkpoint: Checkpoint, wanted: Edits) -> Said:
    """What the checkpoint and the files beside it say, where an edit goes by that."""
    return merged_values(checkpoint) if wanted.dialects or wanted.dequantize or wanted.quantize else {}


def _make_plain(state: State, said: Said) -> Sequence[Edit]:
    """Plain weights of quantized ones; the edits that make them."""
    edits = dequantize.edits_for(state.tensors, said, state.composites, state.source.notes)
    for edit in edits:
        state.make(edit, "--dequantize")
    state.told += dequantize.findings_of(edits, said) if edits else []
    return edits


def _make_steps(state: State, wanted: Edits, adapters: Adapters, said: Said) -> None:
    """The name rules, adapters and rules files, in the order given."""
    for rule in wanted.steps:
        if isinstance(rule, NameRule):
            if rule.how == "translate":
                state.told += left_alone(rule.text, infos_of(state.tensors), said)
            for edit in name_edits(rule, state.tensors, said):
                state.make(edit, f"--{rule.how} {rule.text!r}")
        elif isinstance(rule, Lora):
            state.merge(rule, adapters)
        else:
            _make_rules(state, rule, reverse=wanted.reverse)


def _make_casts(state: State, wanted: Edits, plain: Sequence[Edit], said: Said) -> None:
    """The casts that are asked for, and those of what was dequantized by the edits `plain`."""
    types = dequantize.wanted_types(state.tensors, state.origins, plain, dequantize.type_said(said), state.source)
    fixed = fixed_parts(state.composites)
    whole = {name: one for name, one in state.tensors.items() if name not in fixed}
    kept, own = _kept(wanted, whole, said)
    casts, told = cast_edits(
        wanted.dtype, whole, {**types, **own}, kept,
        lambda: model_of(state.tensors, said or state.source.metadata, to_gguf=wanted.for_llama_cpp == TO_GGUF),
    )  # fmt: skip
    for edit in casts:
        state.make(edit, "--dtype")
    state.told += told


def _kept(
    wanted: Edits, tensors: Mapping[str, LazyTensor], said: Mapping[object, object]
) -> tuple[Collection[str], Mapping[str, DType]]:
    """The tensors that a type for all floats is not for, since llama.cpp has them in one, and of which type they are
    where they are not yet. Raises UsageError for a mixture of types, where that is none for such a model.
    """
    if wanted.for_llama_cpp == TO_GGUF:
        return [name for name, one in tensors.items() if is_kept_f32(name, len(one.info.shape))], {}
    if wanted.to_mmproj:
        if mixture := asked_mixture(wanted.dtype):
            raise UsageError(
                f"--dtype {mixture.name}: a mixture of types is for a language model, and not for a tower",
                hint="a --dtype that is one type, as F16 or Q8_0",
            )
        infos = infos_of(tensors)
        fixed = fixed_types(infos, said, asked_of_all(wanted.dtype))
        return fixed.keys(), fixed
    return (), {}


def _make_quantized(state: State, wanted: Sequence[str], said: Said) -> None:
    """The weights as quantizers store them, stacks of experts taken apart before."""
    apart, told = quantize.apart_edits(state.tensors, wanted, said)
    for edit in apart:
        state.make(edit, "--quantize")
    edit, more = quantize.quantize_edit(state.tensors, wanted, state.composites, said)
    state.make(edit, "--quantize")
    state.told += [*told, *more]


def _make_rules(state: State, path: str | PathLike[str], *, reverse: bool) -> None:
    with located(path):
        edits = read_rules(path)
        numbers = range(1, len(edits) + 1)
        for number, edit in zip(reversed(numbers) if reverse else numbers, inverted(edits) if reverse else edits):  # noqa: B905
            state.make(edit, f"undoing {label(edits[number - 1], number)}" if reverse else label(edit, number))
