"""An edit as a line of Python that mends a ``state_dict``; `torch` and `re` are imported where it uses them.

A line is meant to be pasted, so it must do what it says and nothing else: a rename of many names is said as one
expression only if that expression gives the right name for *every* name of the state_dict.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.match import shared_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json

    Pair = tuple[str, str]
    """A name as it is, and as it should be."""
    Candidate = tuple[str, Callable[[str], str]]

FEW = 3
"""Renames that are said one by one."""

MOST = 20
"""Names that are listed in a line."""

_DIGITS = re.compile(r"\d+")
_INDEX = re.compile(r"(?<=[.'])\d+(?=[.'])")
_QUOTED = re.compile(r"('[^']*\{i\}[^']*')")
_OUTER = re.compile(r"(^|\.)\d+\.")
_INNER = re.compile(r"^(.*\.)?\d+\.")


def single(kind: Kind, source: str, *targets: str, **details: Json) -> Edit:
    """An edit of one tensor; without targets it goes, or keeps its name where the kind does not speak of names."""
    names = targets if targets or kind == "drop" else (source,)
    return Edit(kind, (source,), names, details, (Step((source,), names),))


def renames(pairs: Iterable[Pair]) -> Edit:
    """Names that change all in one way; a swap is two that change into each other."""
    steps = tuple(Step((a,), (b,)) for a, b in pairs)
    return Edit("rename", tuple(s.sources[0] for s in steps), tuple(s.targets[0] for s in steps), steps=steps)


def drops(names: Iterable[str]) -> Edit:
    """Tensors that are too many."""
    steps = tuple(Step((name,), ()) for name in names)
    return Edit("drop", tuple(step.sources[0] for step in steps), (), steps=steps)


def python(edit: Edit, names: Collection[str] = ()) -> str | None:
    """The line; None where it would be too long to be of use, and for kinds that a line cannot say.

    names: all that the state_dict holds before the edit, for a rename or drop of many. Costs O(names) for those.
    """
    if edit.kind == "drop":
        return _drops([name for step in edit.steps for name in step.sources], names)
    if edit.kind == "rename":
        return _renames([(step.sources[0], step.targets[0]) for step in edit.steps], names)
    if edit.kind in _MANY:
        return _looped(edit)
    if len(edit.steps) != 1 or edit.kind not in _LINES:
        return None
    step = edit.steps[0]
    return f"state_dict[{step.targets[0]!r}] = state_dict[{step.sources[0]!r}]{_LINES[edit.kind](edit.details)}"


def _turned(details: Mapping[str, Json]) -> str:
    axes = details["axes"]
    assert isinstance(axes, list)
    return ".T.contiguous()" if axes == [1, 0] else f".permute({', '.join(map(str, axes))}).contiguous()"


_LINES: dict[Kind, Callable[[Mapping[str, Json]], str]] = {
    "transpose": _turned,
    "reshape": lambda details: f".reshape({details['shape']})",
    "cast": lambda details: f".to(torch.{details['dtype']})",
    "tie": lambda details: "",
}
"""What is done to the source; ``shape`` as a list, ``dtype`` by torch's name for it."""


def _cut(step: Step, details: Mapping[str, Json]) -> str:
    return _copied(step, f"split({details['sizes']}{_dimension(details)})")


def _apart(step: Step, details: Mapping[str, Json]) -> str:
    return _copied(step, f"unbind({details['axis'] or ''})")


def _copied(step: Step, cut: str) -> str:
    """Views would each keep all of the whole."""
    source = f"state_dict.pop({step.sources[0]!r})"
    return f"{_items(step.targets)} = (part.clone() for part in {source}.{cut})"


def _together(word: str) -> Callable[[Step, Mapping[str, Json]], str]:
    def line(step: Step, details: Mapping[str, Json]) -> str:
        parts = ", ".join(f"state_dict.pop({name!r})" for name in step.sources)
        return f"{_items(step.targets)} = torch.{word}([{parts}]{_dimension(details)})"

    return line


def _items(names: Sequence[str]) -> str:
    return ", ".join(f"state_dict[{name!r}]" for name in names)


def _dimension(details: Mapping[str, Json]) -> str:
    return f", {details['axis']}" if details["axis"] else ""


_MANY: dict[Kind, Callable[[Step, Mapping[str, Json]], str]] = {
    "split": _cut, "unstack": _apart, "concat": _together("cat"), "stack": _together("stack"),
}  # fmt: skip
"""Several tensors that are one, or one that is several."""


def _looped(edit: Edit) -> str | None:
    """One line for each step, or a loop where their names differ in one index alone."""
    if "blocks" in edit.details or any(len(step.sources) + len(step.targets) > MOST for step in edit.steps):
        return None
    lines = [_MANY[edit.kind](step, edit.details) for step in edit.steps]
    if len(lines) == 1:
        return lines[0]
    columns = [tuple(_INDEX.findall(line)) for line in lines]
    texts = _INDEX.split(lines[0])
    rows = list(zip(*columns, strict=True)) if len({len(column) for column in columns}) == 1 else []
    changing = {row for row in rows if len(set(row)) > 1}
    odd = any(mark in line for line in lines for mark in '{}"\\')  # an f-string would read them otherwise
    if odd or len(changing) != 1 or any(_INDEX.split(line) != texts for line in lines):
        return "; ".join(lines) if len(lines) <= FEW else None
    (numbers,) = changing
    count = [int(number) for number in numbers]
    over = f"range({len(count)})" if count == [*range(len(count))] else repr(tuple(count))
    indices = [*("{i}" if row in changing else row[0] for row in rows), ""]
    filled = "".join(text + index for text, index in zip(texts, indices, strict=True))
    return f"for i in {over}: " + _QUOTED.sub(r"f\1", filled)


def _renames(pairs: Sequence[Pair], names: Collection[str]) -> str | None:
    if len(pairs) == 2 and pairs[0] == pairs[1][::-1]:
        a, b = pairs[0]
        return f"state_dict[{a!r}], state_dict[{b!r}] = state_dict[{b!r}], state_dict[{a!r}]"
    if len(pairs) <= FEW:
        return "; ".join(f"state_dict[{b!r}] = state_dict.pop({a!r})" for a, b in pairs)
    wanted = dict(pairs)
    for text, renamed in _candidates(pairs):
        if all(renamed(name) == wanted[name] for name in wanted) and all(
            name in wanted or renamed(name) == name for name in names
        ):
            imports = "import re; " if text.startswith("re.") else ""
            return f"{imports}state_dict = {{{text}: tensor for name, tensor in state_dict.items()}}"
    if len(pairs) > MOST:
        return None
    return f"state_dict = {{{wanted!r}.get(name, name): tensor for name, tensor in state_dict.items()}}"


def _candidates(pairs: Sequence[Pair]) -> Iterator[Candidate]:
    """Expressions that rename the first pair as it should be, the shortest first."""
    a, b = pairs[0]
    if a.endswith(b):
        prefix = a[: len(a) - len(b)]
        yield f"name.removeprefix({prefix!r})", lambda name: name.removeprefix(prefix)
    if b.endswith(a):
        yield from _prefixes(b[: len(b) - len(a)], [found for found, _ in pairs])
    for old, new in _replacements(a, b):
        yield f"name.replace({old!r}, {new!r})", partial(_replaced, old, new)
    for old, new in _replacements(a, b):
        yield from _pattern(old, new)


def _replaced(old: str, new: str, name: str) -> str:
    return name.replace(old, new)


def _prefixes(prefix: str, found: Sequence[str]) -> Iterator[Candidate]:
    yield f"{prefix!r} + name", lambda name: prefix + name
    starts = tuple(dict.fromkeys(f"{name.partition('.')[0]}." if "." in name else name for name in found))
    if len(starts) > MOST:
        return
    shown = repr(starts) if len(starts) > 1 else repr(starts[0])
    condition = f"name.startswith({shown})"
    yield f"{prefix!r} + name if {condition} else name", lambda name: prefix + name if name.startswith(starts) else name


def _replacements(a: str, b: str) -> Iterator[Pair]:
    """What to replace by what: the part in which the two names differ, alone and with ever more beside it."""
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


def _pattern(old: str, new: str) -> Iterator[Candidate]:
    """The same with the numbers left open, where both sides have the same ones."""
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


def _drops(dropped: Sequence[str], names: Collection[str]) -> str | None:
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
    """The numbered block that a name is in, with its dot; all of the name where there is none."""
    match = block.search(name)
    return name[: match.end()] if match else name
