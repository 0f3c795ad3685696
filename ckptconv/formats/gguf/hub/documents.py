"""The documents beside a model's weights, each read when it is asked for, once.

JSON of any size up to a limit that the largest vocabularies stay under, with no key twice and no more values than
metadata may have. A document that is missing is None; one that is not what it should be is an error with its path.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.core import strict_json
from ckptconv.errors import CorruptFileError, EditError, LimitError, located
from ckptconv.io.limits import MAX_NODES, MAX_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.report import Finding
    from ckptconv.io.folder import Folder
    from ckptconv.io.source import Source

Object = dict[str, Any]

HINT = "download the model's files again"
GO_WITHOUT = "--meta tokenizer.ggml.model=none goes on without a tokenizer"
"""The hint where llama.cpp has no such tokenizer."""


class Documents:
    """Those of one folder. `findings` are what a person should know of them."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.findings: list[Finding] = []
        self._objects: dict[str, Object | None] = {}

    def object(self, name: str) -> Object | None:
        """A JSON object. Raises CorruptFileError, LimitError."""
        if name not in self._objects:
            self._objects[name] = self._read(name, _object)
        return self._objects[name]

    def config(self, translation: str) -> Object:
        """What the model's configuration says. Raises CorruptFileError, EditError where there is none, LimitError."""
        found = self.object(CONFIG)
        if found is None:
            raise EditError(
                f"--translate {translation}: there is no {CONFIG} beside the weights",
                path=self.folder.path,
                hint=f"copy the model's {CONFIG} and tokenizer into that folder",
            )
        return found

    def text(self, name: str) -> str | None:
        """A text in UTF-8. Raises CorruptFileError, LimitError."""
        found: str | None = self._read(name, _text)
        return found

    def data(self, name: str) -> bytes | None:
        """Any bytes. Raises LimitError."""
        found: bytes | None = self._read(name, lambda source: source.read_all(MAX_TOKENIZER))
        return found

    def named(self, name: str) -> str:
        """Where a document is, for errors."""
        return str(self.folder.path / name)

    def _read(self, name: str, how: Callable[[Source], Any]) -> Any:
        if name not in self.folder.names:
            return None
        source = self.folder.open(name)
        with located(source.path):
            return how(source)


def steps(node: object, key: str) -> list[Object]:
    """The steps of a normalizer or a pre_tokenizer: those under `key` of a sequence, or the one that it is itself."""
    if not isinstance(node, dict):
        return []
    inner = node.get(key) if node.get("type") == "Sequence" else [node]
    return [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []


def utf8(text: object, what: str) -> str:
    """The text, where it is one: JSON can spell halves of a character. Raises CorruptFileError."""
    if isinstance(text, str):
        with suppress(UnicodeEncodeError):
            text.encode("utf-8")
            return text
    raise bad(f"{what} is not text")


def bad(what: str) -> CorruptFileError:
    """The error for a document that contradicts itself."""
    return CorruptFileError(what, hint=HINT)


def _text(source: Source) -> str:
    try:
        return source.read_all(MAX_TOKENIZER).decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad(f"{source.path.name} is not UTF-8") from error


def _object(source: Source) -> Object:
    data = source.read_all(MAX_TOKENIZER)
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_NODES:
        raise LimitError(f"{source.path.name} has more than {MAX_NODES:,} values")
    return strict_json.object_of(data, source.path.name, hint=HINT)
