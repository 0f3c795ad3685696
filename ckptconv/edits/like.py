"""Undoes a translation: gives tensors the names and layouts of a template, another framework's file of the same model.

`plan` translates the template, which says how each of its tensors comes to torch's names, and turns that around:

    template, such as a .keras ──translation──► torch's names and shapes, which the tensors must have
    tensors ──the same edits, inverted──► the template's names, shapes and layouts

What a translation drops or adds cannot be turned around that simply:

    a copy of another tensor, which it drops        is made again
    what torch has no place for, such as a counter  keeps the template's value
    zeros and copies that it adds                   may only go if the tensors still have those values (`check_reduced`)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed, plural, shape_text
from ckptconv.edits.apply import apply, apply_edit, label
from ckptconv.edits.dialects.change import edits_for, grouped_by_details, have_same_bytes
from ckptconv.edits.invert import inverted
from ckptconv.edits.ordered import OrderedMap
from ckptconv.edits.translate import changes_in
from ckptconv.errors import LIST_NAMES, EditError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor, TensorInfo

_COMPUTED = frozenset({"rope.freqs"})
"""What transformers computes, and a translation leaves as it is: the rotary frequencies in Llama's releases."""

_COUNTER = ".num_batches_tracked"
"""What torch counts in a batch norm; other frameworks do not."""


@dataclass(frozen=True, slots=True)
class LikePlan:
    """What to do with tensors to give them the template's names and layouts.

    unneeded: the tensors to leave out first: ties of others, and counters that the template does not have.
    edits:    what is done to the rest; then all names are the template's.
    kept:     the template's tensors that have no counterpart, which are taken from it.
    reduced:  the tensors of which the edits drop something, since the translation makes it of other tensors.
    forward:  the edits of the translation.
    """

    unneeded: tuple[str, ...]
    edits: tuple[Edit, ...]
    kept: tuple[str, ...]
    reduced: tuple[str, ...]
    forward: tuple[Edit, ...]


def plan(
    tensors: Mapping[str, LazyTensor], template: Mapping[str, LazyTensor], dialect: str,
    metadata: Mapping[object, object],
) -> LikePlan:  # fmt: skip
    """Plan how `tensors` become like `template`. `metadata` is the template's. Reads only the template's twins.

    Raises EditError if the two are not of the same network, or if the translation cannot be undone; otherwise raises as
    `changes_in` does.
    """
    changes = changes_in(dialect, infos_of(template), metadata)
    forward = edits_for(changes, template)
    translated = OrderedMap(template)
    complete: list[Edit] = []
    for number, edit in enumerate(forward, 1):
        before = {name: translated[name].info for step in edit.steps for name in step.sources}
        apply_edit(translated, edit, label(edit, number))
        complete += _completed(edit, before, translated)
    backward = [edit for edit in complete if edit.kind not in ("drop", "cast")]
    used = {name for edit in backward for step in edit.steps for name in (*step.sources, *step.targets)}
    left_alone = {name for name in template if name not in used and (changes[name].note or name in _COMPUTED)}
    kept = tuple(name for name in translated if name in left_alone and name not in tensors)
    unneeded = _unneeded(tensors, translated)
    _check_names(tensors, translated.keys() - {*kept}, unneeded)
    _check_shapes(tensors, translated)
    removed = [name for name in template if name not in translated and name not in used]
    twins = {name: changes[name].twin for name in removed if changes[name].twin and not changes[name].dropped}
    return LikePlan(
        unneeded=unneeded,
        edits=(*inverted(backward), *_copies(twins)),
        kept=(*kept, *(name for name in removed if name not in twins)),
        reduced=tuple(name for name in _made_of_additions(backward) if name in translated),
        forward=tuple(forward),
    )


def check_reduced(plan: LikePlan, tensors: Mapping[str, LazyTensor], result: Mapping[str, LazyTensor]) -> None:
    """Raise EditError if `tensors` hold what a translation of `result` would not give back.

    Reads only the tensors of which something was dropped.
    """
    if not plan.reduced:
        return
    again = apply(result, plan.forward)
    lost = [name for name in plan.reduced if not have_same_bytes(tensors[name], again[name])]
    if lost:
        raise EditError(
            f"it has no place for all of {_quoted(lost)}: --translate would not give these values back",
            hint="where it has one bias and torch two, add the second to the first, and make it zero",
        )


def _completed(edit: Edit, before: Mapping[str, TensorInfo], after: Mapping[str, LazyTensor]) -> Iterator[Edit]:
    """The edit with what is needed to undo it: shapes before and after, and the sizes of parts."""

    def details(step: Step) -> dict[str, object]:
        more: dict[str, object] = {}
        if edit.kind == "reshape":
            more = {"from": list(before[step.sources[0]].shape), "shape": list(after[step.targets[0]].info.shape)}
        elif edit.kind == "concat":
            axis = edit.details.get("axis", 0)
            assert isinstance(axis, int)
            more = {"sizes": [before[name].shape[axis] for name in step.sources]}
        return {**edit.details, **more}

    yield from grouped_by_details((edit.kind, details(step), step.sources, step.targets) for step in edit.steps)


def _made_of_additions(forward: Sequence[Edit]) -> set[str]:
    """The names of zeros and copies that these edits add, and of what they make of those."""
    made: set[str] = set()
    for edit in forward:
        adds = edit.kind == "zeros" or (edit.kind == "tie" and edit.details.get("new"))
        for step in edit.steps:
            if adds or not made.isdisjoint(step.sources):
                made |= {*step.targets}
    return made


def _copies(twins: Mapping[str, str]) -> list[Edit]:
    """Edits that make a copy of each twin under the name that has it in the template."""
    if not twins:
        return []
    steps = tuple(Step((twin,), (name,)) for name, twin in twins.items())
    first = steps[0]
    return [
        Edit("tie", first.sources, first.targets, {"new": True}, steps),
        Edit("untie", first.sources, first.targets, {}, steps),
    ]


def _unneeded(tensors: Mapping[str, LazyTensor], translated: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    """The tensors that the template does without: counters of batches, and other names of a tensor that it has."""
    aliases = {tensor.alias for name, tensor in tensors.items() if name in translated and tensor.alias is not None}
    return tuple(
        name
        for name, tensor in tensors.items()
        if name not in translated and (name.endswith(_COUNTER) or tensor.alias in aliases)
    )


def _check_names(tensors: Mapping[str, LazyTensor], wanted: set[str], unneeded: Sequence[str]) -> None:
    missing = [name for name in sorted(wanted) if name not in tensors]
    extra = [name for name in tensors if name not in wanted and name not in unneeded]
    if not missing and not extra:
        return
    parts = []
    if missing:
        count = plural(len(missing), "of its tensors is", "of its tensors are")
        parts.append(f"{count} missing here, by torch's names {_quoted(missing)}")
    if extra:
        count = plural(len(extra), "tensor here is", "tensors here are")
        parts.append(f"{count} not in it: {_quoted(extra)}")
    raise EditError("; ".join(parts), hint="--rename before it gives tensors the names that are missing; " + LIST_NAMES)


def _quoted(names: Sequence[str]) -> str:
    return listed([repr(name) for name in names], 3)


def _check_shapes(tensors: Mapping[str, LazyTensor], translated: Mapping[str, LazyTensor]) -> None:
    for name, tensor in tensors.items():
        there = translated.get(name)
        if there is not None and there.info.shape != tensor.info.shape:
            raise EditError(
                f"{name!r} is {shape_text(tensor.info.shape)}, and {shape_text(there.info.shape)} in it",
                hint="it is a file of another network, or of another size of it",
            )
