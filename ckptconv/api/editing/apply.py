"""Doing what `Edits` ask for: a checkpoint becomes another, and no tensor is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.api.editing import dequantize, quantize
from ckptconv.api.editing.edits import Moves
from ckptconv.api.editing.lora import Adapters, Lora
from ckptconv.api.editing.mixture import model_of
from ckptconv.api.stated import check_config, said_anywhere
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.edits.apply import apply_edit, label
from ckptconv.edits.composites import chosen_whole, fixed_parts, followed, with_types
from ckptconv.edits.dialects.to_gguf import is_kept_f32
from ckptconv.edits.dialects.to_mmproj import fixed_types
from ckptconv.edits.invert import inverted
from ckptconv.edits.name_rule import TO_GGUF, NameRule
from ckptconv.edits.rules import read_rules
from ckptconv.edits.select import name_edits
from ckptconv.edits.translate import left_alone
from ckptconv.edits.tree import rooted
from ckptconv.edits.types import asked_mixture, asked_of_all, cast_edits
from ckptconv.errors import EditError, UsageError, located
from ckptconv.formats.gguf.filetype import told_types

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from os import PathLike

    from ckptconv.api.editing.edits import Edits, Origins
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.composite import Composite
    from ckptconv.core.dtypes import DType
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor


@dataclass(slots=True)
class _State:
    """Tensors on their way, for each name those of the source that it comes from, and the adapters merged into it."""

    tensors: dict[str, LazyTensor]
    extras: dict[str, LazyTensor]
    composites: dict[str, Composite]
    origins: Origins = field(default_factory=dict)
    merged: Origins = field(default_factory=dict)

    def make(self, edit: Edit, label: str) -> None:
        """One edit. Tensors outside of the state_dict take part where a step names them, and stay where they are."""
        named = {name for step in edit.steps for name in (*step.sources, *step.targets)}
        outside = {name: tensor for name, tensor in self.extras.items() if name in named}
        made, steps = apply_edit({**self.tensors, **outside}, edit, label)
        self.composites = with_types(followed(self.composites, edit, steps, label), {**self.extras, **made})
        if gone := [name for name in outside if name not in made]:
            raise EditError(
                f"{label}: {gone[0]!r} is outside of the state_dict, and stays there under its name",
                hint="edits may read such a tensor: give what they make of it a name of its own, or leave it out",
            )
        self.extras.update({name: made.pop(name) for name in outside})
        self.origins = _followed({**{name: (name,) for name in outside}, **self.origins}, steps, made)
        self.merged = {name: found for name, found in _followed(self.merged, steps, made).items() if found}
        self.tensors = made

    def merge(self, wanted: Lora, adapters: Adapters) -> list[Finding]:
        """An adapter, and what is told of it."""
        made, found = adapters.merged(wanted, self.tensors)
        parts = {part: name for name, one in self.composites.items() for part in one.parts.values()}
        if torn := [parts[name] for name in made.touched if name in parts]:
            one = self.composites[torn[0]]
            raise EditError(
                f"{wanted.label}: {torn[0]!r} is {one.summary}", hint="--dequantize makes floats of it first"
            )
        self.tensors = made.tensors
        self.origins |= dict.fromkeys(made.added, ())
        self.merged |= {name: (*self.merged.get(name, ()), wanted.text) for name in made.touched}
        return found


def _followed(before: Origins, steps: Sequence[Step], names: Iterable[str]) -> Origins:
    """What was said of sources, of the targets that were made of them."""
    come = {
        target: tuple(dict.fromkeys(old for name in step.sources for old in before.get(name, ())))
        for step in steps
        for target in step.targets
    }
    return {name: come.get(name) or before.get(name, ()) for name in names}


def edited(
    checkpoint: Checkpoint,
    wanted: Edits,
    adapters: Adapters | None = None,
    *,
    bare: bool = False,
    said: Mapping[object, MetaNode] | None = None,
) -> tuple[Checkpoint, Moves]:
    """The checkpoint after `wanted`, no tensor read, and where each of its tensors comes from. With `bare`, metadata
    may be left out. `adapters` are those of `wanted`, opened. `said` is what counts for translations instead of what
    the checkpoint and the files beside it say.

    Raises EditError, UsageError, and what reading a rules file raises.
    """
    if wanted.reverse and all(isinstance(rule, NameRule | Lora) for rule in wanted.steps):
        raise UsageError("there are no rules to reverse", hint="--reverse goes with --rules FILE")
    chosen = chosen_whole(list(checkpoint), wanted.select, wanted.drop, checkpoint.composites_of(checkpoint))
    tensors = {name: checkpoint[name] for name in chosen}
    composites = checkpoint.composites_of({**tensors, **checkpoint.extras})
    state = _State(tensors, dict(checkpoint.extras), composites, {n: (n,) for n in chosen})
    translates = bool(wanted.dialects)
    if wanted.for_llama_cpp:
        check_config(checkpoint)
    if said is None:
        said = said_anywhere(checkpoint) if translates or wanted.dequantize or wanted.quantize else {}
    plain = dequantize.edits_for(state.tensors, said, state.composites, checkpoint.notes) if wanted.dequantize else []
    for edit in plain:
        state.make(edit, "--dequantize")
    left: list[Finding] = dequantize.findings_of(plain, said) if plain else []
    left += _make_steps(state, wanted, adapters or Adapters(()), said)
    types = dequantize.wanted_types(state.tensors, state.origins, plain, dequantize.type_said(said), checkpoint)
    left += _make_casts(checkpoint, state, wanted, types, said)
    left += dequantize.left_quantized(state.tensors) if plain else []
    if wanted.quantize:
        apart, first = quantize.apart_edits(state.tensors, wanted.quantize, said)
        for edit in apart:
            state.make(edit, "--quantize")
        edit, told = quantize.quantize_edit(state.tensors, wanted.quantize, state.composites, said)
        state.make(edit, "--quantize")
        left += first + told
    made = _rebuilt(checkpoint, state, left, bare=bare, in_one=translates)
    if plain:
        made.root = dequantize.unclaimed(made.root)
        made = dequantize.unpacked(made, plain) if checkpoint.notes.quantized else made
    made.root = told_types(made.root, checkpoint.values(), made.values(), asked_mixture(wanted.dtype))
    return made, Moves(state.origins, state.merged)


def _make_steps(state: _State, wanted: Edits, adapters: Adapters, said: Mapping[object, MetaNode]) -> list[Finding]:
    """The name rules, adapters and rules files, in the order given, and what is told of them."""
    told: list[Finding] = []
    for rule in wanted.steps:
        if isinstance(rule, NameRule):
            if rule.how == "translate":
                told += left_alone(rule.text, infos_of(state.tensors), said)
            for edit in name_edits(rule, state.tensors, said):
                state.make(edit, f"--{rule.how} {rule.text!r}")
        elif isinstance(rule, Lora):
            told += state.merge(rule, adapters)
        else:
            _make_rules(state, rule, reverse=wanted.reverse)
    return told


def _make_casts(
    checkpoint: Checkpoint, state: _State, wanted: Edits, types: Mapping[str, DType], said: Mapping[object, MetaNode]
) -> Sequence[Finding]:
    """The casts that are asked for, and those to `types`; and what is told of them."""
    fixed = fixed_parts(state.composites)
    whole = {name: one for name, one in state.tensors.items() if name not in fixed}
    kept, own = _kept(wanted, whole, said)
    casts, told = cast_edits(
        wanted.dtype, whole, {**types, **own}, kept,
        lambda: model_of(state.tensors, said or checkpoint.metadata, to_gguf=wanted.for_llama_cpp == TO_GGUF),
    )  # fmt: skip
    for edit in casts:
        state.make(edit, "--dtype")
    return told


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


def _make_rules(state: _State, path: str | PathLike[str], *, reverse: bool) -> None:
    with located(path):
        edits = read_rules(path)
        numbers = range(1, len(edits) + 1)
        for number, edit in zip(reversed(numbers) if reverse else numbers, inverted(edits) if reverse else edits):  # noqa: B905
            state.make(edit, f"undoing {label(edits[number - 1], number)}" if reverse else label(edit, number))


def _rebuilt(checkpoint: Checkpoint, state: _State, left: Sequence[Finding], *, bare: bool, in_one: bool) -> Checkpoint:
    """The checkpoint around its new tensors: its metadata as it was, bookkeeping under the new names."""
    tensors, origins, notes = state.tensors, state.origins, checkpoint.notes
    moved = {olds[0]: new for new, olds in origins.items() if len(olds) == 1}
    same = {new: olds[0] for new, olds in origins.items() if olds and tensors[new] is checkpoint.get(olds[0])}
    same |= {name: name for name, tensor in state.extras.items() if tensor is checkpoint.extras[name]}
    findings = [*checkpoint.findings, *left, *_broken_ties(checkpoint, tensors, moved)]
    fits = {name: tensor.info.shape for name, tensor in tensors.items()} == {
        name: tensor.info.shape for name, tensor in checkpoint.items()
    }
    if notes.arch is not None and not fits:
        message = "the note of its architecture is dropped: its tensors are others now; --arch gives it one"
        findings.append(Finding("arch-note", "info", "", message))
    firsts = {**{new: olds[0] for new, olds in origins.items() if olds}, **{name: name for name in state.extras}}
    notes = replace(
        notes,
        arch=notes.arch if fits else None,
        tensors={new: notes.tensors[old] for new, old in firsts.items() if old in notes.tensors},
        strides={new: notes.strides[old] for new, old in same.items() if old in notes.strides},
        attributes={new: notes.attributes[old] for new, old in firsts.items() if old in notes.attributes},
        quantized=tuple(one for one in notes.quantized if all(same.get(part) == part for part in one.parts.values())),
        between=tuple(name for name in notes.between if same.get(name) == name),
        digest=None,
    )
    return checkpoint.replaced(
        tensors=tensors, extras=state.extras, composites=state.composites,
        root=rooted(checkpoint, tensors.keys(), moved, bare=bare, in_one=in_one), notes=notes, findings=tuple(findings),
    )  # fmt: skip


def _broken_ties(
    checkpoint: Checkpoint, tensors: Mapping[str, LazyTensor], moved: Mapping[str, str]
) -> Iterator[Finding]:
    """A warning for names that shared one tensor, of which an edit has changed some alone."""
    for group in checkpoint.ties:
        left = [moved[name] for name in group if name in moved]
        if len({tensors[name].alias for name in left}) > 1:
            message = f"{' and '.join(left)} shared one tensor, and do not any more"
            yield Finding("tie-broken", "warning", left[0], message, " = ".join(group))
