"""What a node of a schema of skops' says by itself, and what it asks of the files beside it."""

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
"""What keys were that JSON has as texts; skops calls these, so that every text but "" is True."""


class Files(Protocol):
    """What lies beside the schema."""

    def array(self, file: str, path: Path) -> MetaNode:
        """The node of an array of numbers, which is a tensor, or of texts. Raises CorruptFileError, LimitError."""

    def scalar(self, file: str, path: Path) -> MetaNode:
        """The same where it is a number of numpy's."""

    def data(self, file: str) -> bytes:
        """All of a file. Raises CorruptFileError, LimitError."""

    def type_of(self, file: str) -> str:
        """The type of an array's elements, in numpy's word."""

    def unread(self, type_: str, file: str, path: Path, why: str) -> MetaNode:
        """What stands for an array that is not read, which is told."""


def text(node: Node, key: str, path: Path) -> str:
    """The text that a node has under a key. Raises CorruptFileError."""
    value = node.get(key)
    if not isinstance(value, str):
        raise bad(path, f"has no {key!r}")
    return value


def type_of(node: Node, path: Path) -> str:
    """The type that it names, or the function. Raises CorruptFileError."""
    return f"{text(node, '__module__', path)}.{text(node, '__class__', path)}"


def key_of(kind: str, key: str, path: Path) -> object:
    """What a key of a dict was, which is a text in JSON. Raises CorruptFileError."""
    try:
        return _KEYS.get(kind, str)(key)
    except ValueError as error:
        raise bad(path, f"has a key {key[:40]!r} that is no {kind.rpartition('.')[2]}") from error


def where(path: Path) -> str:
    """A path as errors name it."""
    return repr(spell_path(path)) if path else "its root"


def bad(path: Path, what: str) -> CorruptFileError:
    """The error for a node that is none of skops'."""
    return CorruptFileError(f"schema.json is damaged: {where(path)} {what}")
