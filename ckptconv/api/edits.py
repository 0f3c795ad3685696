"""What people do while converting: select, drop, dequantize, rename, rules, casts, in this order."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.api import dequantize
from ckptconv.api.lora import Adapters, Lora
from ckptconv.api.stated import said_anywhere
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.report import Finding, listed
from ckptconv.edits.apply import apply_edit, label
from ckptconv.edits.cast import is_cast, is_quantized, loss_of
from ckptconv.edits.composites import chosen_whole, fixed_parts, followed, with_types
from ckptconv.edits.dialects import GIVES, TO_GGUF, changes_in, left_alone
from ckptconv.edits.dialects.to_gguf import is_kept_f32
from ckptconv.edits.invert import inverted
from ckptconv.edits.rounding import Loss
from ckptconv.edits.rules import read_rules
from ckptconv.edits.select import NameRule, name_edits
from ckptconv.edits.tree import rooted
from ckptconv.edits.types import cast_edits
from ckptconv.errors import CkptconvError, EditError, UnsupportedError, UsageError
from ckptconv.formats import registry
from ckptconv.formats.gguf.filetype import told_types
from ckptconv.io.checksum import CHUNK
from ckptconv.io.stream import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from os import PathLike

    from ckptconv.core.composite import Composite
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import Format

    Origins = dict[str, tuple[str, ...]]

MOST_TRANSLATED = 20_000
"""Tensors up to which it is found out whether they could be translated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What is to be done to the model's tensors on their way.

    select, drop: globs over the source's names; ``*`` crosses dots.
    dequantize:   make plain tensors of quantized weights, of the type that the configuration has for them (F32 where it
                  says none), or that `dtype` says.
    names:        prefixes, substitutions and translations, adapters to merge (`Lora`), and rules files (their paths),
                  in the order in which they are made. The substitutions are Python's regular expressions, and whoever
                  writes one vouches for the time that it takes; the patterns of rules files take linear time.
    reverse:      undo the rules files instead.
    dtype:        ``"BF16"`` for all floats, ``"GLOB=F32"`` for some; the last that matches counts. For a GGUF also
                  ``"Q8_0"`` and other blocks, for the matrices that can be of them.
    """

    select: Sequence[str] = ()
    drop: Sequence[str] = ()
    dequantize: bool = False
    names: Sequence[NameRule | Lora | str | PathLike[str]] = ()
    reverse: bool = False
    dtype: Sequence[str] = ()

    @property
    def to_gguf(self) -> bool:
        """Whether what comes out is a model of llama.cpp's."""
        return NameRule("translate", TO_GGUF) in self.names

    def __bool__(self) -> bool:
        return bool(self.select or self.drop or self.dequantize or self.names or self.reverse or self.dtype)


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the plan: the names a tensor comes from, its new name, type and shape, and the file that it goes to.

    A tensor that is left out has no target and no file; its type and shape are those that it had. merged: the adapters
    that change it, or that it is of, where it has no source.
    """

    sources: tuple[str, ...]
    target: str | None
    dtype: str
    shape: tuple[int, ...]
    file: str | None
    merged: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Json]:
        """The row as ``convert --dry-run --json`` prints it."""
        row: dict[str, Json] = {
            "sources": list(self.sources), "target": self.target, "dtype": self.dtype, "shape": list(self.shape),
            "file": self.file,
        }  # fmt: skip
        return row | ({"merged": list(self.merged)} if self.merged else {})


@dataclass(frozen=True, slots=True)
class Moves:
    """Where tensors come from: the source's names by the new ones, and the adapters that were merged into them."""

    origins: Origins = field(default_factory=dict)
    merged: Origins = field(default_factory=dict)


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
            raise EditError(f"{label}: {gone[0]!r} is outside of the state_dict, and stays there under its name")
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
    checkpoint: Checkpoint, wanted: Edits, adapters: Adapters | None = None, *, bare: bool = False
) -> tuple[Checkpoint, Moves]:
    """The checkpoint after `wanted`, no tensor read, and where each of its tensors comes from. With `bare`, metadata
    may be left out. `adapters` are those of `wanted`, opened.

    Raises EditError, UsageError, and what reading a rules file raises.
    """
    if wanted.reverse and all(isinstance(rule, NameRule | Lora) for rule in wanted.names):
        raise UsageError("there are no rules to reverse", hint="--reverse goes with --rules FILE")
    chosen = chosen_whole(list(checkpoint), wanted.select, wanted.drop, checkpoint.composites_of(checkpoint))
    tensors = {name: checkpoint[name] for name in chosen}
    composites = checkpoint.composites_of({**tensors, **checkpoint.extras})
    state = _State(tensors, dict(checkpoint.extras), composites, {n: (n,) for n in chosen})
    translates = any(isinstance(rule, NameRule) and rule.how == "translate" for rule in wanted.names)
    said = said_anywhere(checkpoint) if translates or wanted.dequantize else {}
    plain = dequantize.edits_for(state.tensors, said, state.composites) if wanted.dequantize else []
    for edit in plain:
        state.make(edit, "--dequantize")
    left: list[Finding] = dequantize.findings_of(plain, said) if plain else []
    for rule in wanted.names:
        if isinstance(rule, NameRule):
            if rule.how == "translate":
                left += left_alone(rule.text, {name: one.info for name, one in state.tensors.items()}, said)
            for edit in name_edits(rule, state.tensors, said):
                state.make(edit, f"--{rule.how} {rule.text!r}")
        elif isinstance(rule, Lora):
            left += state.merge(rule, adapters or Adapters(()))
        else:
            _make_rules(state, rule, reverse=wanted.reverse)
    fixed = fixed_parts(state.composites)
    types = dequantize.wanted_types(state.tensors, state.origins, plain, dequantize.type_said(said))
    whole = {name: one for name, one in state.tensors.items() if name not in fixed}
    kept = {name for name, one in whole.items() if wanted.to_gguf and is_kept_f32(name, len(one.info.shape))}
    casts, told = cast_edits(wanted.dtype, whole, types, kept)
    for edit in casts:
        state.make(edit, "--dtype")
    made = _rebuilt(checkpoint, state, [*left, *told], bare=bare, in_one=translates)
    if plain:
        made.root = dequantize.unclaimed(made.root)
    made.root = told_types(made.root, checkpoint.values(), made.values())
    return made, Moves(state.origins, state.merged)


def _make_rules(state: _State, path: str | PathLike[str], *, reverse: bool) -> None:
    try:
        edits = read_rules(path)
        numbers = range(1, len(edits) + 1)
        for number, edit in zip(reversed(numbers) if reverse else numbers, inverted(edits) if reverse else edits):  # noqa: B905
            state.make(edit, f"undoing {label(edits[number - 1], number)}" if reverse else label(edit, number))
    except CkptconvError as error:
        raise error.at(path) from error.__cause__


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
        digest=None,
    )
    return Checkpoint(
        tensors, extras=state.extras, composites=state.composites,
        root=rooted(checkpoint, tensors.keys(), moved, bare=bare, in_one=in_one), format=checkpoint.format,
        notes=notes, findings=tuple(findings), file=checkpoint.file,
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


def untranslated(checkpoint: Checkpoint, wanted: Format, edits: Edits | None) -> Iterator[Finding]:
    """What is told of tensors that go into another format with names and layouts of their framework's."""
    if wanted.name == checkpoint.format or (edits and edits.names):
        return
    if dialect := dialect_of(checkpoint) or _dialect_for(checkpoint, wanted):
        message = f"names and layouts stay as they are; --translate {dialect} makes {GIVES[dialect]} of them"
        yield Finding("dialect", "info", "", message, hint=f"--translate {dialect}")


def _dialect_for(checkpoint: Checkpoint, wanted: Format) -> str:
    """What makes a model of transformers' one of the format that it is written in, "" where nothing does."""
    with suppress(EditError, UnsupportedError):
        if wanted.dialect == "gguf" and len(checkpoint) <= MOST_TRANSLATED:
            changes_in(TO_GGUF, {name: tensor.info for name, tensor in checkpoint.items()}, said_anywhere(checkpoint))
            return TO_GGUF
    return ""


def dialect_of(checkpoint: Checkpoint) -> str:
    """What ``--translate`` would take for a checkpoint, "" where it finds nothing to do, or there are too many names
    to find out.
    """
    with suppress(EditError, UnsupportedError, UsageError):  # of a format that is in no table, too
        dialect = registry.by_name(checkpoint.format).dialect
        if dialect and len(checkpoint) <= MOST_TRANSLATED:
            infos = {name: tensor.info for name, tensor in checkpoint.items()}
            changes_in(dialect, infos, said_anywhere(checkpoint))
            return dialect
    return ""


def plan_of(source: Checkpoint, checkpoint: Checkpoint, moves: Moves, file: Callable[[str], str]) -> list[Move]:
    """What becomes of every tensor of the model, in the target's order; then those that are left out."""
    origins, merged = moves.origins, moves.merged
    made = [
        Move(
            origins.get(name, (name,)),
            name,
            tensor.info.dtype.name,
            tensor.info.shape,
            file(name),
            merged.get(name, ()),
        )
        for name, tensor in checkpoint.items()
    ]
    used = {name for move in made for name in move.sources}
    gone = [
        Move((name,), None, tensor.info.dtype.name, tensor.info.shape, None)
        for name, tensor in source.items()
        if name not in used
    ]
    return [*made, *gone]


def read_casts(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> None:
    """Read every tensor that is cast, so that `cast_losses` knows what that costs; in constant memory."""
    waiting = [tensor for _, tensor, _ in _casts(checkpoint)]
    total, done = sum(tensor.info.nbytes for tensor in waiting), 0
    for tensor in waiting:
        for chunk in chunks(tensor, memoryview(bytearray(CHUNK))):
            done += len(chunk)
            if progress is not None:
                progress(done, total)


def cast_losses(checkpoint: Checkpoint) -> tuple[list[Finding], list[Finding]]:
    """What casting lost, of all that has been read: what needs consent (values past the range), and what is said."""
    over: list[Finding] = []
    cast: list[Loss] = []
    quantized: dict[str, list[Loss]] = {}
    for name, tensor, loss in _casts(checkpoint):
        if is_quantized(tensor):
            quantized.setdefault(tensor.info.dtype.name, []).append(loss)
        elif is_cast(tensor):
            cast.append(loss)
        if loss.overflowed:
            many = "1 value is" if loss.overflowed == 1 else f"{loss.overflowed:,} values are"
            message = f"{name}: {many} past the range of {tensor.info.dtype}"
            over.append(Finding("overflow", "error", name, message, None, str(loss.overflowed)))
    told = [_cast_finding(cast)] if cast else []
    return over, told + [_quantized_finding(dtype, losses) for dtype, losses in quantized.items()]


def _cast_finding(losses: Sequence[Loss]) -> Finding:
    total = _sum(losses)
    how = f"the largest relative error is {total.max_rel:.3g}" if total.max_rel else "exactly"
    message = f"{_are(losses)} cast: {how}{_flushed(total)}"
    return Finding("cast", "info", "", message, None, f"{total.max_rel:.9g}")


def _quantized_finding(dtype: str, losses: Sequence[Loss]) -> Finding:
    total = _sum(losses)
    how = f"the RMS error is {100 * total.rms:.3g} % of the values' RMS" if total.error else "exactly"
    message = f"{_are(losses)} quantized to {dtype}: {how}{_flushed(total)}"
    return Finding("quantized", "info", "", message, None, f"{total.rms:.9g}")


def _sum(losses: Sequence[Loss]) -> Loss:
    total = Loss()
    for one in losses:
        total.add(one)
    return total


def _are(losses: Sequence[Loss]) -> str:
    return f"{len(losses):,} tensor{'s are' if len(losses) != 1 else ' is'}"


def _flushed(total: Loss) -> str:
    return f"; {total.flushed:,} value{'s' * (total.flushed != 1)} became 0" if total.flushed else ""


def unheld_blocks(checkpoint: Checkpoint, wanted: Format) -> Iterator[Finding]:
    """The loss of tensors that were asked to be blocks in a format that would keep them as bytes, and record it."""
    names: dict[str, list[str]] = {}
    for name, tensor in checkpoint.items():
        if is_quantized(tensor) and tensor.info.dtype in wanted.holds.dtypes and not wanted.holds.blocks:
            names.setdefault(tensor.info.dtype.name, []).append(name)
    for dtype, which in names.items():
        shown = listed([repr(name) for name in which], 4)
        message = f"{wanted.name} has no {dtype}; its bytes would be kept as U8, which ckptconv alone unpacks: {shown}"
        yield Finding("dtype", "error", which[0], message, hint="a .gguf holds blocks")


def _casts(checkpoint: Checkpoint) -> Iterable[tuple[str, LazyTensor, Loss]]:
    """Tensors that are cast, tied ones once, and what has been lost of each so far."""
    for name, tensor in checkpoint.all_tensors.items():
        loss = None if name in checkpoint.tied_to else loss_of(tensor)
        if loss is not None:
            yield name, tensor, loss
