"""The nodes of a skops schema: their values, and an interface to the files beside the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ckptconv.core.metadata import spell_path
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.metadata import MetaNode

Path = tuple[object, ...]
Node = dict[str, Any]

_KEYS: dict[str, Callable[[str], object]] = {"builtins.int": int, "builtins.float": float, "builtins.bool": bool}
"""The types of keys, which JSON stores as texts. skops calls these types, so every text but "" is True."""


class Files(Protocol):
    """The files beside the schema."""

    def array(self, file: str, path: Path) -> MetaNode:
        """The metadata node for an array: a tensor's for numbers, or texts. Raises CorruptFileError, LimitError."""

    def scalar(self, file: str, path: Path) -> MetaNode:
        """The metadata node for a numpy scalar."""

    def data(self, file: str) -> bytes:
        """The contents of a file. Raises CorruptFileError, LimitError."""

    def type_of(self, file: str) -> str:
        """Numpy's code for the type of an array's elements."""

    def unread(self, type_: str, file: str, path: Path, why: str) -> MetaNode:
        """The metadata node for an array that is not read; adds a finding."""


def text(node: Node, key: str, path: Path) -> str:
    """The text under a key of a node. Raises CorruptFileError."""
    value = node.get(key)
    if not isinstance(value, str):
        raise bad(path, f"has no {key!r}")
    return value


def type_of(node: Node, path: Path) -> str:
    """The name of a node's type, or of its function. Raises CorruptFileError."""
    return f"{text(node, '__module__', path)}.{text(node, '__class__', path)}"


def parse_key(kind: str, key: str, path: Path) -> object:
    """The key of a dict, which JSON stores as a text, as its type. Raises CorruptFileError."""
    try:
        return _KEYS.get(kind, str)(key)
    except ValueError as error:
        raise bad(path, f"has a key {key[:40]!r} that is not of type {kind.rpartition('.')[2]}") from error


def where(path: Path) -> str:
    """A path, for errors."""
    return repr(spell_path(path)) if path else "its root"


def bad(path: Path, what: str) -> CorruptFileError:
    """The error for an invalid node."""
    return CorruptFileError(f"schema.json is damaged: {where(path)} {what}")
