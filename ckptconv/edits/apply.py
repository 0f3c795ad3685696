"""Makes the changes that edits describe, lazily: no tensor is read.

`apply` takes tensors by name and returns new ones in the same order; a new name takes the place of the one that it was
made of. Every step is made or refused: a missing name, a name that would be there twice, and a pattern that matches
nothing are errors that list the names.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor
from ckptconv.edits.expand import steps_of
from ckptconv.edits.kinds import layout, sharing, values
from ckptconv.edits.kinds.change import Change
from ckptconv.edits.kinds.table import KINDS
from ckptconv.edits.ordered import OrderedMap
from ckptconv.errors import LIST_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptconv.core.edit import Edit, Kind, Step

Tensors = OrderedMap[LazyTensor]

_MAKERS: dict[Kind, Callable[[Change, Step], Sequence[LazyTensor]]] = {
    "rename": sharing.rename,
    "transpose": layout.transpose,
    "permute": layout.permute,
    "reshape": layout.reshape,
    "cast": values.cast,
    "map": values.map_values,
    "dequantize": values.dequantize,
    "remove-parametrization": values.remove_parametrization,
    "fold-batch-norm": values.fold_batch_norm,
    "quantize": values.quantize,
    "split": layout.split,
    "concat": layout.concat,
    "stack": layout.stack,
    "unstack": layout.split,
    "tie": sharing.tie,
    "untie": sharing.untie,
    "drop": sharing.drop,
    "zeros": sharing.zeros,
    "remove-layers": sharing.drop,
}
"""The function that makes a step's targets, in order, for each kind; ``insert-layers`` is refused before."""


def apply(tensors: Mapping[str, LazyTensor], edits: Sequence[Edit]) -> dict[str, LazyTensor]:
    """The tensors after all edits, one after another. Raises EditError, UnsupportedError."""
    made = OrderedMap(tensors)
    for number, edit in enumerate(edits, 1):
        apply_edit(made, edit, label(edit, number))
    return dict(made)


def label(edit: Edit, number: int) -> str:
    """The `number`-th edit as errors call it."""
    return f"edit {number}, {edit.kind} {' + '.join(edit.sources or edit.targets)!r}"


def apply_edit(tensors: Tensors, edit: Edit, label: str) -> tuple[Step, ...]:
    """Apply one edit to `tensors`; returns the steps it stands for. Errors call the edit `label`, and change nothing.

    Costs time linear in the tensors that it names, and in all tensors if its patterns have a ``{*}``.
    """
    change = Change(tensors, edit, label)
    if edit.kind == "insert-layers":
        raise change.fail("the values of layers that are inserted are not in a list of edits", edit.targets)
    steps = steps_of(edit, tensors, label)
    _check(change, steps)
    tensors.replace(*_made(change, steps))
    return steps


def _made(change: Change, steps: Sequence[Step]) -> tuple[set[str], dict[str, dict[str, LazyTensor]]]:
    """The names that are gone after the steps, and what they made, by the name in whose place, or behind which, it
    stands: that of a step's first source.
    """
    tensors, sources_stay = change.tensors, KINDS[change.edit.kind].sources_stay
    made_at: dict[str, dict[str, LazyTensor]] = {}
    gone: set[str] = set()
    for step in steps:
        place = step.sources[0]
        if not sources_stay:
            gone |= set(step.sources)
        elif step.targets[0] in tensors:  # an old target keeps its place
            place = step.targets[0]
            gone.add(place)
        targets = _MAKERS[change.edit.kind](change, step)
        made_at.setdefault(place, {}).update(zip(step.targets, targets, strict=True))
    return gone, made_at


def _check(change: Change, steps: Sequence[Step]) -> None:
    """Refuse names that are missing, used twice, or would be there twice."""
    tensors, edit = change.tensors, change.edit
    for step in steps:
        _check_counts(change, step)
    missing = dict.fromkeys(name for step in steps for name in step.sources if name not in tensors)
    if missing:
        count = f"{len(missing)} tensors are" if len(missing) > 1 else "a tensor is"
        raise change.fail(f"{count} missing", missing, LIST_NAMES)
    sources_stay = KINDS[edit.kind].sources_stay
    consumed = Counter(name for step in steps for name in step.sources) if not sources_stay else Counter[str]()
    if twice := [name for name, count in consumed.items() if count > 1]:
        raise change.fail("two steps take one tensor", twice)
    targets = Counter(name for step in steps for name in step.targets)
    must_be_new = not sources_stay or edit.details.get("new") or edit.kind == "zeros"
    if twice := [
        name
        for name, count in targets.items()
        if count > 1 or (must_be_new and name in tensors and name not in consumed)
    ]:
        raise change.fail("two tensors would have one name", twice)
    if edit.kind == "untie" and (lost := [name for name in targets if name not in tensors]):
        raise change.fail("a tensor is missing", lost, LIST_NAMES)


def _check_counts(change: Change, step: Step) -> None:
    needs = KINDS[change.edit.kind]
    for names, count in ((step.sources, needs.sources), (step.targets, needs.targets)):
        wrong = {"one": len(names) != 1, "none": bool(names), "many": not names}
        if wrong[count]:
            raise change.fail(f"a step has {len(names)} names where it takes {count}", names)
