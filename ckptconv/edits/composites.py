"""What edits do to quantized and sparse tensors: they are renamed and left out whole, and never torn apart.

Rules and patterns speak of the parts' names as of any others. Where a change would leave parts that no longer make the
tensor (one of them dropped, the integers transposed), it is refused by name. Only the values of a sparse tensor may be
cast: everything else in it, scales included, has the type that torch asks for.
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
    """The parts that are not cast: all but the values of sparse tensors."""
    return {
        part
        for one in composites.values()
        for role, part in one.parts.items()
        if role != VALUES or not isinstance(one, Sparse)
    }


def _names_to_choose(names: Sequence[str], composites: Mapping[str, Composite]) -> list[str]:
    """What ``--select`` and ``--drop`` choose from: every tensor, and what has no tensor of its own name."""
    known = set(names)
    inside = {name for name, one in composites.items() if known.issuperset(one.parts.values())}
    return [*names, *(name for name in composites if name in inside - known)]


def chosen_whole(
    names: Sequence[str], select: Sequence[str], drop: Sequence[str], composites: Mapping[str, Composite]
) -> list[str]:
    """As `selected`: what is selected by one of its names comes whole, and what is dropped by one goes whole."""
    choice = _names_to_choose(names, composites)
    families = [{name, *one.parts.values()} for name, one in composites.items()]
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
    return left or selected(left, (), ())  # which says that nothing is left


def followed(composites: Mapping[str, Composite], edit: Edit, steps: Sequence[Step], label: str) -> Composites:
    """The composites after an edit. Raises EditError where it would tear one apart."""
    touched = {name: step.targets for step in steps for name in step.sources}
    targets = {name for step in steps for name in step.targets}
    made: Composites = {}
    for name, one in composites.items():
        parts = set(one.parts.values())
        hit = parts & touched.keys()
        if not hit and not parts & targets:
            made[name] = one
        elif edit.kind in ("drop", "remove-layers", "dequantize") and hit == parts:
            continue
        elif edit.kind == "rename" or (edit.kind == "cast" and not hit & fixed_parts({name: one})):
            names = {part: touched[part][0] for part in hit}
            moved = renamed(one, names)
            made[_whole_name(name, one, moved)] = moved
        else:
            problem = f"{label}: {name!r} is {one.summary}, of which {min(hit or parts)!r} is a part"
            raise EditError(f"{problem} that cannot be changed alone", hint=_HINT)
    return made


def _whole_name(name: str, before: Composite, after: Composite) -> str:
    """What the whole is called once its parts have other names: as its integers, or as its parts without their ends."""
    values = after.parts[VALUES]
    if before.parts[VALUES] == name:
        return values
    if values == before.parts[VALUES]:
        return name
    end = before.parts[VALUES].removeprefix(name)
    return values.removesuffix(end) if end and values.endswith(end) else values


def with_types(composites: Mapping[str, Composite], tensors: Mapping[str, LazyTensor]) -> Composites:
    """Sparse tensors with the types that their values have now."""
    return {
        name: replace(one, dtype=tensors[one.parts[VALUES]].info.dtype) if isinstance(one, Sparse) else one
        for name, one in composites.items()
    }
