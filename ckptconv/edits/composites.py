"""What edits do to quantized and sparse tensors, which consist of several parts: these stay together.

Patterns match the names of parts like any other names. An edit after which the parts no longer make up the tensor (one
is dropped, or the integers are transposed) is refused by name. Only the values of a sparse tensor may be cast: all
other parts, scales included, have the types that torch requires.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.composite import VALUES, Sparse, renamed
from ckptconv.edits.select import selected
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.composite import Composite
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.tensor import LazyTensor

    Composites = dict[str, Composite]

_HINT = "--dequantize makes floats of quantized tensors; to_dense() sparse ones before saving, or leave them out"


def fixed_parts(composites: Mapping[str, Composite]) -> set[str]:
    """The names of parts that are not cast: all but the values of sparse tensors."""
    return {
        part
        for composite in composites.values()
        for role, part in composite.parts.items()
        if role != VALUES or not isinstance(composite, Sparse)
    }


def _selectable_names(names: Sequence[str], composites: Mapping[str, Composite]) -> list[str]:
    """What ``--select`` and ``--drop`` choose from: every tensor, and composites without a tensor of their own name."""
    known = set(names)
    complete = {name for name, composite in composites.items() if known.issuperset(composite.parts.values())}
    return [*names, *(name for name in composites if name in complete - known)]


def select_whole(
    names: Sequence[str], select: Sequence[str], drop: Sequence[str], composites: Mapping[str, Composite]
) -> list[str]:
    """As `selected`, but a composite that is selected or dropped by one of its names is so with all its parts."""
    choice = _selectable_names(names, composites)
    families = [{name, *composite.parts.values()} for name, composite in composites.items()]
    kept = set(selected(choice, select, ()))
    for family in families:
        kept |= family if family & kept else set()
    choice = [name for name in choice if name in kept]
    if drop:
        gone = set(choice) - set(selected(choice, (), drop))
        for family in families:
            gone |= family if family & gone else set()
        choice = [name for name in choice if name not in gone]
    known = set(names)
    left = [name for name in choice if name in known]
    return left or selected(left, (), ())  # raises the error that nothing is left


def composites_after(composites: Mapping[str, Composite], edit: Edit, steps: Sequence[Step], label: str) -> Composites:
    """The composites after an edit. Raises EditError where the edit would tear one apart."""
    targets_of = {name: step.targets for step in steps for name in step.sources}
    targets = {name for step in steps for name in step.targets}
    after: Composites = {}
    for name, composite in composites.items():
        parts = set(composite.parts.values())
        changed = parts & targets_of.keys()
        if not changed and not parts & targets:
            after[name] = composite
        elif edit.kind in ("drop", "remove-layers", "dequantize") and changed == parts:
            continue
        elif edit.kind == "rename" or (edit.kind == "cast" and not changed & fixed_parts({name: composite})):
            moved = renamed(composite, {part: targets_of[part][0] for part in changed})
            after[_whole_name(name, composite, moved)] = moved
        else:
            problem = f"{label}: {name!r} is {composite.summary}, of which {min(changed or parts)!r} is a part"
            raise EditError(f"{problem} that cannot be changed alone", hint=_HINT)
    return after


def _whole_name(name: str, before: Composite, after: Composite) -> str:
    """The composite's name after its parts were renamed: its values' name, without the ending that it did not have."""
    values = after.parts[VALUES]
    if before.parts[VALUES] == name:
        return values
    if values == before.parts[VALUES]:
        return name
    end = before.parts[VALUES].removeprefix(name)
    return values.removesuffix(end) if end and values.endswith(end) else values


def with_current_types(composites: Mapping[str, Composite], tensors: Mapping[str, LazyTensor]) -> Composites:
    """The composites, sparse ones with the element type that their values have in `tensors`."""
    return {
        name: replace(composite, dtype=tensors[composite.parts[VALUES]].info.dtype)
        if isinstance(composite, Sparse)
        else composite
        for name, composite in composites.items()
    }
