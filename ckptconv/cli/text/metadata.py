"""Metadata as text, in Python's spelling, so that a tuple is not a list; cut where it grows long.

The cost is bounded by what is shown, not by what the file holds.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable
from ckptconv.core.metadata import (
    FACTORY_NAMES,
    MetaNode,
    NumpyArray,
    NumpyScalar,
    Opaque,
    StateDict,
    TensorRef,
    TorchSize,
)
from ckptconv.core.text import plural
from ckptconv.formats.trees.omegaconf import is_settings, plain_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LINE = 96
"""Characters of a value that are shown on its line."""

MOST_WIDE = 48
"""The widest that the column of keys gets; longer keys push their values aside. GGUF's have some 40 characters."""

LEVELS = 4
"""How deep long containers are opened."""

MOST_KEYS = 200
MOST_CHILDREN = 20
"""How many entries are shown of the metadata, and of a container in it."""

MOST_VISITED = 200_000
"""How many nodes are visited to see whether a container holds nothing but tensors."""


def entries(tree: dict[object, MetaNode], indent: str = "", levels: int = LEVELS) -> list[str]:
    """A line for each key and its value. A container too long for its line is opened, `levels` deep."""
    lines: list[str] = []
    shown = list(islice(tree.items(), MOST_KEYS if levels == LEVELS else MOST_CHILDREN))
    labels = [shortened(printable(key) if isinstance(key, str) else spelled(key)) for key, _ in shown]
    wide = max((len(label) for label in labels if len(label) <= MOST_WIDE), default=0)
    for label, (_, value) in zip(labels, shown, strict=True):
        text = spelled(value)
        start = f"{indent}{label.ljust(wide)}  "
        below = _children(value) if len(text) > LINE and levels > 1 else {}
        lines.append(start + (_summary(value) if below else shortened(text, value)))
        if below:
            lines += entries(below, indent + "  ", levels - 1)
    if len(tree) > len(shown):
        lines.append(f"{indent}… and {len(tree) - len(shown):,} more")
    return lines


def attributes(node: MetaNode) -> list[str]:
    """The attributes of an object that is a whole file, such as a trainer's arguments, as `entries`; else nothing."""
    if not isinstance(node, Opaque) or not isinstance(node.state, dict):
        return []
    return entries({key: value for key, value in node.state.items() if value is not None})


def shortened(text: str, value: MetaNode = None) -> str:
    """The text, cut where it is longer than a line, and then with the length of the value."""
    if len(text) <= LINE:
        return text
    match value:
        case str() | bytes() | bytearray():
            note = f"({plural(len(value), 'character' if isinstance(value, str) else 'byte')})"
        case dict() | list() | tuple() | set() | frozenset():
            note = f"({plural(len(value), 'item')})"
        case _:
            note = ""
    return f"{text[:LINE]}… {note}".rstrip()


def _children(node: MetaNode) -> dict[object, MetaNode]:
    """What is shown of a container that is opened: entries that have names, or that are containers; else nothing."""
    if isinstance(node, Opaque) and is_settings(node):
        node = plain_settings(node)
    if not isinstance(node, (dict, list, tuple)) or _tensor_count(node):
        return {}
    entries: dict[object, MetaNode] = dict(node) if isinstance(node, dict) else dict(enumerate(node))
    named = isinstance(node, dict) and all(isinstance(key, str) for key in entries)
    nested = any(isinstance(child, (dict, list, tuple, Opaque)) for child in entries.values())
    return entries if named or nested else {}


def _summary(node: MetaNode) -> str:
    if isinstance(node, Opaque) and is_settings(node):
        return f"OmegaConf {_summary(plain_settings(node))}"
    kind = type(node).__name__
    size = len(node) if isinstance(node, (dict, list, tuple)) else 0
    return f"{kind} of {plural(size, 'item')}"


def spelled(node: MetaNode, most: int = LINE) -> str:
    """The node in Python's spelling, printable. It stops soon after `most` characters, so that its cost is bounded."""
    parts: list[str] = []
    length = 0
    for part in _parts(node, most):
        parts.append(part)
        length += len(part)
        if length > most:
            break
    return printable("".join(parts))


def _parts(node: MetaNode, most: int) -> Iterator[str]:
    match node:
        case str() | bytes() | bytearray():
            yield repr(node[: most + 8])
        case int() if node.bit_length() > 4 * most:
            yield hex(node)  # decimal digits of a huge int take quadratic time
        case dict() | list() | tuple() | set() | frozenset():
            yield from _container(node, most)
        case TensorRef(name):
            yield f"<tensor {name}>"
        case StateDict():
            yield "<the model's tensors>"
        case NumpyScalar() | NumpyArray():
            yield from _numpy(node, most)
        case Opaque() if is_settings(node):
            yield "OmegaConf "
            yield from _parts(plain_settings(node), most)
        case Opaque():
            yield from _object(node, most)
        case _:
            yield repr(node)


def _container(node: MetaNode, most: int) -> Iterator[str]:
    match node:
        case TorchSize():
            yield from _row("torch.Size([", node, "])", most)
        case OrderedDict() | Counter():
            yield from _mapping(f"{type(node).__name__}({{", node.items(), "})", most)
        case defaultdict():
            factory = None if node.default_factory is None else FACTORY_NAMES[node.default_factory]
            yield from _mapping(f"defaultdict({str(factory).removeprefix('builtins.')}, {{", node.items(), "})", most)
        case dict():
            count = _tensor_count(node)
            if count:
                yield f"<{plural(count, 'tensor')}>"
            else:
                yield from _mapping("{", node.items(), "}", most)
        case list():
            yield from _row("[", node, "]", most)
        case tuple():
            yield from _row("(", node, ",)" if len(node) == 1 else ")", most)
        case set():
            yield from _row("{", node, "}", most) if node else iter(["set()"])
        case frozenset():
            yield from _row("frozenset({", node, "})", most)


def _row(start: str, nodes: Iterable[MetaNode], end: str, most: int) -> Iterator[str]:
    yield start
    for i, node in enumerate(nodes):
        if i:
            yield ", "
        yield from _parts(node, most)
    yield end


def _mapping(start: str, items: Iterable[tuple[MetaNode, MetaNode]], end: str, most: int) -> Iterator[str]:
    yield start
    for i, (key, value) in enumerate(items):
        if i:
            yield ", "
        yield from _parts(key, most)
        yield ": "
        yield from _parts(value, most)
    yield end


def _numpy(node: NumpyScalar | NumpyArray, most: int) -> Iterator[str]:
    """A numpy value; only the first of an array's elements are decoded, and only numbers and text."""
    import numpy as np

    try:
        dtype = np.dtype(node.dtype)
        whole = np.frombuffer(node.data, dtype, len(node.data) // dtype.itemsize)
        values = whole[:most].tolist()
        if isinstance(node, NumpyArray) and node.fortran and values:
            first = np.unravel_index(np.arange(len(values)), node.shape)
            values = whole[np.ravel_multi_index(first, node.shape, order="F")].tolist()
    except (TypeError, ValueError, ZeroDivisionError):
        yield f"<numpy {node.dtype}, {plural(len(node.data), 'byte')}>"
        return
    if isinstance(node, NumpyScalar):
        yield f"numpy.{dtype.name}({values[0] if values else ''!r})"
        return
    yield f"numpy.array({dtype.name}, shape {list(node.shape)}: "
    yield ", ".join(repr(value) for value in values)
    yield ")"


def _object(node: Opaque, most: int) -> Iterator[str]:
    if node.how in ("named", "handed"):
        yield f"<{node.name}>"
        return
    if node.how == "enclosing":
        yield f"<the enclosing {node.args[0] if node.args and node.args[0] else 'object'}>"
        return
    if fields := _date_fields(node):
        yield f"{node.name}({fields}"
        for zone in node.args[1:]:
            yield ", "
            yield from _parts(zone, most)
        yield ")"
        return
    yield f"<{node.name}" if node.how == "object" else node.name
    if node.how != "object" or node.args or node.kwargs:
        yield from _row("(", node.args, "", most)
        for i, (name, argument) in enumerate(node.kwargs.items()):
            yield f"{', ' if i or node.args else ''}{name}="
            yield from _parts(argument, most)
        yield ")"
    if node.state is not None:
        yield " with state "
        yield from _parts(node.state, most)
    if node.items:
        yield from _row(" with items [", node.items, "]", most)
    if node.pairs:
        yield from _mapping(" with {", node.pairs, "}", most)
    if node.how == "object":
        yield ">"


def _date_fields(node: Opaque) -> str:
    """The numbers of a date, a time or both, which its first argument has as bytes; "" for anything else.

    Source: CPython's Lib/_pydatetime.py (`_getstate`): the year and the microseconds are big-endian, and the year's or
    the hour's upper half keeps flags.
    """
    fields = node.args[0] if node.args else None
    if not isinstance(fields, bytes) or len(fields) != _DATES.get(node.name) or node.state is not None:
        return ""
    day, clock = (fields[:4], fields[4:]) if node.name != "datetime.time" else (b"", fields)
    numbers = [int.from_bytes(day[:2], "big"), day[2] & 0x7F, day[3]] if day else []
    if clock:
        numbers += [clock[0] & 0x7F, clock[1], clock[2], int.from_bytes(clock[3:], "big")]
    return ", ".join(map(str, numbers))


_DATES = {"datetime.datetime": 10, "datetime.date": 4, "datetime.time": 6}


def _tensor_count(node: MetaNode) -> int:
    """How many tensors a container holds that holds nothing else; 0 for others, and past `MOST_VISITED` nodes."""
    total, left = 0, [node]
    for _ in range(MOST_VISITED):
        if not left:
            return total
        match left.pop():
            case TensorRef() | StateDict(plain=()):
                total += 1
            case dict() as mapping if mapping:
                left += mapping.values()
            case list() | tuple() as sequence if sequence:
                left += sequence
            case _:
                return 0
    return 0
