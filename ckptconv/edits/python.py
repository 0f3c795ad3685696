"""Writes an edit as a line of Python that makes it to a ``state_dict``, for hints.

The line is meant to be pasted, so it must do what it says and nothing else: many renames become one expression only if
that expression gives the right name for *every* name of the state_dict. The line imports `re` if it uses it; `torch` is
taken as imported.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.core.names import shared_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json

    Pair = tuple[str, str]
    """A name as it is, and as it should be."""
    Candidate = tuple[str, Callable[[str], str]]
    """An expression of `name`, and the function that it computes."""

FEW = 3
"""Up to so many renames are written one by one."""

MOST = 20
"""The most names that a line lists."""

_DIGITS = re.compile(r"\d+")
_INDEX = re.compile(r"(?<=[.'])\d+(?=[.'])")
_QUOTED = re.compile(r"('[^']*\{i\}[^']*')")
_OUTER = re.compile(r"(^|\.)\d+\.")
_INNER = re.compile(r"^(.*\.)?\d+\.")


def single(kind: Kind, source: str, *targets: str, **details: Json) -> Edit:
    """An edit of one tensor. Without targets, it is dropped if the kind is drop, else it keeps its name."""
    names = targets if targets or kind == "drop" else (source,)
    return Edit(kind, (source,), names, details, (Step((source,), names),))


def renames(pairs: Iterable[Pair]) -> Edit:
    """One edit that renames all (old, new) pairs."""
    steps = tuple(Step((a,), (b,)) for a, b in pairs)
    return Edit("rename", tuple(s.sources[0] for s in steps), tuple(s.targets[0] for s in steps), steps=steps)


def drops(names: Iterable[str]) -> Edit:
    """One edit that drops all names."""
    steps = tuple(Step((name,), ()) for name in names)
    return Edit("drop", tuple(step.sources[0] for step in steps), (), steps=steps)


def python(edit: Edit, names: Collection[str] = ()) -> str | None:
    """The line; None where it would be too long to be useful, and for kinds that have none.

    names: all names of the state_dict before the edit, for a rename or drop of many. Takes O(names) for those.
    """
    if edit.kind == "drop":
        return _drop_line([name for step in edit.steps for name in step.sources], names)
    if edit.kind == "rename":
        return _rename_line([(step.sources[0], step.targets[0]) for step in edit.steps], names)
    if edit.kind in _MANY_TENSORS:
        return _loop_line(edit)
    if len(edit.steps) != 1 or edit.kind not in _ONE_TENSOR:
        return None
    step = edit.steps[0]
    return f"state_dict[{step.targets[0]!r}] = state_dict[{step.sources[0]!r}]{_ONE_TENSOR[edit.kind](edit.details)}"


def _transpose(details: Mapping[str, Json]) -> str:
    axes = details["axes"]
    assert isinstance(axes, list)
    return ".T.contiguous()" if axes == [1, 0] else f".permute({', '.join(map(str, axes))}).contiguous()"


_ONE_TENSOR: dict[Kind, Callable[[Mapping[str, Json]], str]] = {
    "transpose": _transpose,
    "reshape": lambda details: f".reshape({details['shape']})",
    "cast": lambda details: f".to(torch.{details['dtype']})",
    "tie": lambda details: "",
}
"""What to append to the source, by kind. ``details["shape"]`` is a list, ``details["dtype"]`` is torch's name."""


def _split(step: Step, details: Mapping[str, Json]) -> str:
    return _cloned_parts(step, f"split({details['sizes']}{_dimension(details)})")


def _unstack(step: Step, details: Mapping[str, Json]) -> str:
    return _cloned_parts(step, f"unbind({details['axis'] or ''})")


def _cloned_parts(step: Step, cut: str) -> str:
    """The line that assigns the parts, as clones: each view would keep the whole tensor in memory."""
    source = f"state_dict.pop({step.sources[0]!r})"
    return f"{_items(step.targets)} = (part.clone() for part in {source}.{cut})"


def _joined_by(function: str) -> Callable[[Step, Mapping[str, Json]], str]:
    def line(step: Step, details: Mapping[str, Json]) -> str:
        parts = ", ".join(f"state_dict.pop({name!r})" for name in step.sources)
        return f"{_items(step.targets)} = torch.{function}([{parts}]{_dimension(details)})"

    return line


def _items(names: Sequence[str]) -> str:
    return ", ".join(f"state_dict[{name!r}]" for name in names)


def _dimension(details: Mapping[str, Json]) -> str:
    return f", {details['axis']}" if details["axis"] else ""


_MANY_TENSORS: dict[Kind, Callable[[Step, Mapping[str, Json]], str]] = {
    "split": _split, "unstack": _unstack, "concat": _joined_by("cat"), "stack": _joined_by("stack"),
}  # fmt: skip
"""The line for a step that makes one tensor of several, or several of one."""


def _loop_line(edit: Edit) -> str | None:
    """A loop, if the steps' names differ in a single index; else one statement for each step, if they are few."""
    if "blocks" in edit.details or any(len(step.sources) + len(step.targets) > MOST for step in edit.steps):
        return None
    lines = [_MANY_TENSORS[edit.kind](step, edit.details) for step in edit.steps]
    if len(lines) == 1:
        return lines[0]
    columns = [tuple(_INDEX.findall(line)) for line in lines]
    texts = _INDEX.split(lines[0])
    rows = list(zip(*columns, strict=True)) if len({len(column) for column in columns}) == 1 else []
    changing = {row for row in rows if len(set(row)) > 1}
    special = any(mark in line for line in lines for mark in '{}"\\')  # these mean something else in an f-string
    if special or len(changing) != 1 or any(_INDEX.split(line) != texts for line in lines):
        return "; ".join(lines) if len(lines) <= FEW else None
    (texts_of_i,) = changing
    values = [int(text) for text in texts_of_i]
    loop_over = f"range({len(values)})" if values == [*range(len(values))] else repr(tuple(values))
    indices = [*("{i}" if row in changing else row[0] for row in rows), ""]
    filled = "".join(text + index for text, index in zip(texts, indices, strict=True))
    return f"for i in {loop_over}: " + _QUOTED.sub(r"f\1", filled)


def _rename_line(pairs: Sequence[Pair], names: Collection[str]) -> str | None:
    if len(pairs) == 2 and pairs[0] == pairs[1][::-1]:
        a, b = pairs[0]
        return f"state_dict[{a!r}], state_dict[{b!r}] = state_dict[{b!r}], state_dict[{a!r}]"
    if len(pairs) <= FEW:
        return "; ".join(f"state_dict[{b!r}] = state_dict.pop({a!r})" for a, b in pairs)
    wanted = dict(pairs)
    for text, renamed in _candidates(pairs):
        if all(renamed(name) == wanted.get(name, name) for name in (*wanted, *names)):
            imports = "import re; " if text.startswith("re.") else ""
            return f"{imports}state_dict = {{{text}: tensor for name, tensor in state_dict.items()}}"
    if len(pairs) > MOST:
        return None
    return f"state_dict = {{{wanted!r}.get(name, name): tensor for name, tensor in state_dict.items()}}"


def _candidates(pairs: Sequence[Pair]) -> Iterator[Candidate]:
    """Expressions that rename the first pair correctly, the shortest first."""
    a, b = pairs[0]
    if a.endswith(b):
        prefix = a[: len(a) - len(b)]
        yield f"name.removeprefix({prefix!r})", lambda name: name.removeprefix(prefix)
    if b.endswith(a):
        yield from _prefix_candidates(b[: len(b) - len(a)], [found for found, _ in pairs])
    for old, new in _replacements(a, b):
        yield f"name.replace({old!r}, {new!r})", partial(_replace, old, new)
    for old, new in _replacements(a, b):
        yield from _regex_candidates(old, new)


def _replace(old: str, new: str, name: str) -> str:
    return name.replace(old, new)


def _prefix_candidates(prefix: str, found: Sequence[str]) -> Iterator[Candidate]:
    """The prefix before every name, or only before those that start as one of `found` does."""
    yield f"{prefix!r} + name", lambda name: prefix + name
    starts = tuple(dict.fromkeys(f"{name.partition('.')[0]}." if "." in name else name for name in found))
    if len(starts) > MOST:
        return
    shown = repr(starts) if len(starts) > 1 else repr(starts[0])
    condition = f"name.startswith({shown})"
    yield f"{prefix!r} + name if {condition} else name", lambda name: prefix + name if name.startswith(starts) else name


def _replacements(a: str, b: str) -> Iterator[Pair]:
    """(old, new) texts to replace: the part in which the names differ, alone and with more and more around it."""
    one, two = a.split("."), b.split(".")
    start, end = shared_ends(one, two)
    for before, after in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (2, 2)):
        if before > start or after > end:
            continue
        low, high = start - before, end - after
        old, new = ".".join(one[low : len(one) - high]), ".".join(two[low : len(two) - high])
        for left, right in (("", ""), (".", ""), ("", "."), (".", ".")):
            if (left and low == 0) or (right and high == 0):
                continue
            cut_old, cut_new = (f"{left}{text}{right}" if text else (left or right) for text in (old, new))
            if cut_old and old:
                yield cut_old, cut_new


def _regex_candidates(old: str, new: str) -> Iterator[Candidate]:
    """The replacement as a regular expression for any numbers, if both texts have the same ones."""
    numbers = _DIGITS.findall(old)
    if not numbers or numbers != _DIGITS.findall(new) or "\\" in new:
        return
    pattern = r"\b" + r"(\d+)".join(map(re.escape, _DIGITS.split(old))) + (r"\b" if old[-1].isalnum() else "")
    pieces = _DIGITS.split(new)
    groups = (rf"\g<{i}>" for i in range(1, len(pieces)))
    replacement = pieces[0] + "".join(group + piece for group, piece in zip(groups, pieces[1:], strict=True))
    if "'" in pattern + replacement or not (pattern + replacement).isprintable():
        return
    compiled = re.compile(pattern)
    yield f"re.sub(r'{pattern}', r'{replacement}', name)", lambda name: compiled.sub(replacement, name)


def _drop_line(dropped: Sequence[str], names: Collection[str]) -> str | None:
    if len(dropped) == 1:
        return f"del state_dict[{dropped[0]!r}]"
    gone = set(dropped)
    for block in (_OUTER, _INNER):
        starts = tuple(dict.fromkeys(_block(name, block) for name in dropped))
        if len(starts) <= MOST and all((name in gone) == name.startswith(starts) for name in (*names, *dropped)):
            shown = repr(starts) if len(starts) > 1 else repr(starts[0])
            kept = f"not name.startswith({shown})"
            return f"state_dict = {{name: tensor for name, tensor in state_dict.items() if {kept}}}"
    if len(dropped) > MOST:
        return None
    return "; ".join(f"del state_dict[{name!r}]" for name in dropped)


def _block(name: str, block: re.Pattern[str]) -> str:
    """The start of a name up to and including the numbered block that it is in; the name itself if there is none."""
    match = block.search(name)
    return name[: match.end()] if match else name
