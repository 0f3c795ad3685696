"""What edits do to quantized and sparse tensors, which consist of several parts: these stay together.

Patterns match the names of parts like any other names. An edit after which the parts no longer make up the tensor (one
is dropped, or the integers are transposed) is refused by name. Only the values of a sparse tensor may be cast: all
other parts, scales included, have the types that torch requires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.composite import VALUES, Sparse, renamed
from ckptconv.edits.expand import listed
from ckptconv.edits.kinds.table import KINDS
from ckptconv.edits.ordered import OrderedMap
from ckptconv.edits.select import selected
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ckptconv.core.composite import Composite
    from ckptconv.core.edit import Edit, Step
    from ckptconv.core.tensor import LazyTensor

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


class Composites(Mapping[str, "Composite"]):
    """The composites between edits, by name."""

    def __init__(self, composites: Mapping[str, Composite]) -> None:
        self._composites = OrderedMap(composites)
        self._names_by_part: dict[str, list[str]] = {}
        for name, composite in composites.items():
            self._index(name, composite)

    def __getitem__(self, name: str) -> Composite:
        return self._composites[name]

    def __len__(self) -> int:
        return len(self._composites)

    def __iter__(self) -> Iterator[str]:
        return iter(self._composites)

    def _index(self, name: str, composite: Composite) -> None:
        for part in dict.fromkeys(composite.parts.values()):
            self._names_by_part.setdefault(part, []).append(name)

    def apply(self, edit: Edit, steps: Sequence[Step], label: str, tensors: Mapping[str, LazyTensor]) -> None:
        """Follow an edit that made these `tensors`, or left them alone. Costs time linear in the names in its steps.

        Raises EditError where the edit would tear a composite apart, or give two of them one name.
        """
        targets_of = {name: step.targets for step in steps for name in step.sources}
        named = [*targets_of, *(name for step in steps for name in step.targets)]
        touched = {name for part in named for name in self._names_by_part.get(part, ())}
        changes = {name: targets_of.keys() & self[name].parts.values() for name in touched}
        self._check_whole(edit, changes, label)
        moved = {
            name: _moved(name, self[name], {part: targets_of[part][0] for part in changed})
            for name, changed in changes.items()
            if edit.kind in _KEEPING
        }
        self._check_names([name for name, _ in moved.values()], touched, label)
        for name in touched:
            for part in set(self[name].parts.values()):
                self._names_by_part[part].remove(name)
        made_at = {name: {new: _with_current_type(whole, tensors)} for name, (new, whole) in moved.items()}
        self._composites.replace(touched, made_at)
        for new, whole in moved.values():
            self._index(new, whole)

    def _check_whole(self, edit: Edit, changes: Mapping[str, AbstractSet[str]], label: str) -> None:
        """Raise EditError, naming the first composite that the edit tears apart."""
        torn = [name for name, changed in changes.items() if _tears(edit, self[name], changed)]
        if torn:
            name = torn[0] if len(torn) == 1 else next(name for name in self if name in torn)
            part = min(changes[name] or self[name].parts.values())
            problem = f"{label}: {name!r} is {self[name].summary}, of which {part!r} is a part"
            raise EditError(f"{problem} that cannot be changed alone", hint=_HINT)

    def _check_names(self, names: Sequence[str], touched: AbstractSet[str], label: str) -> None:
        """Raise EditError if two composites come to have one of these new names."""
        counts = Counter(names)
        if twice := [name for name in counts if counts[name] > 1 or (name in self and name not in touched)]:
            raise EditError(
                f"{label}: two tensors would have one name", hint=KINDS["rename"].hint, details=listed(twice)
            )


_KEEPING = ("rename", "cast")
"""The kinds of edits after which a composite is still one; others remove it, or tear it apart."""


def _tears(edit: Edit, composite: Composite, changed: AbstractSet[str]) -> bool:
    """Whether an edit that changes these parts leaves some that no longer make up the composite."""
    match edit.kind:
        case "drop" | "remove-layers" | "dequantize":
            return changed != set(composite.parts.values())
        case "cast":
            return bool(changed & fixed_parts({"": composite}))
    return edit.kind not in _KEEPING


def _moved(name: str, composite: Composite, targets: Mapping[str, str]) -> tuple[str, Composite]:
    """A composite and its name after some of its parts got new names."""
    moved = renamed(composite, targets)
    return _whole_name(name, composite, moved), moved


def _whole_name(name: str, before: Composite, after: Composite) -> str:
    """The composite's name after its parts were renamed: its values' name, without the ending that it did not have."""
    values = after.parts[VALUES]
    if before.parts[VALUES] == name:
        return values
    if values == before.parts[VALUES]:
        return name
    end = before.parts[VALUES].removeprefix(name)
    return values.removesuffix(end) if end and values.endswith(end) else values


def _with_current_type(composite: Composite, tensors: Mapping[str, LazyTensor]) -> Composite:
    """The composite, a sparse one with the element type that its values have in `tensors`, if they are there."""
    values = tensors.get(composite.parts[VALUES])
    if values is None or not isinstance(composite, Sparse):
        return composite
    return replace(composite, dtype=values.info.dtype)
