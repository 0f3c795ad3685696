"""The files beside a model's weights (config.json, tokenizers), each read once, on demand.

Sizes and the number of JSON values are limited, to more than the largest vocabularies have; duplicate keys are refused.
A missing file is None; an invalid one is an error with its path.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

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
_Parsed = TypeVar("_Parsed")

HINT = "download the model's files again"
GO_WITHOUT = "--meta tokenizer.ggml.model=none goes on without a tokenizer"
"""The hint for a tokenizer that llama.cpp does not have."""


class Documents:
    """The files of one folder. `findings` collects what the user should know about them."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.findings: list[Finding] = []
        self._objects: dict[str, Object | None] = {}

    def object(self, name: str) -> Object | None:
        """The file, as a JSON object. Raises CorruptFileError, LimitError."""
        if name not in self._objects:
            self._objects[name] = self._read(name, _object)
        return self._objects[name]

    def config(self, translation: str) -> Object:
        """The model's config.json. Raises CorruptFileError, LimitError, EditError if there is none."""
        config = self.object(CONFIG)
        if config is None:
            raise EditError(
                f"--translate {translation}: there is no {CONFIG} beside the weights",
                path=self.folder.path,
                hint=f"copy the model's {CONFIG} and tokenizer into that folder",
            )
        return config

    def text(self, name: str) -> str | None:
        """The file, as a text in UTF-8. Raises CorruptFileError, LimitError."""
        return self._read(name, _text)

    def data(self, name: str) -> bytes | None:
        """The file, as bytes. Raises LimitError."""
        return self._read(name, lambda source: source.read_all(MAX_TOKENIZER))

    def _read(self, name: str, parse: Callable[[Source], _Parsed]) -> _Parsed | None:
        if name not in self.folder.names:
            return None
        source = self.folder.open(name)
        with located(source.path):
            return parse(source)


def steps(node: object, key: str) -> list[Object]:
    """The steps of a tokenizer's normalizer or pre_tokenizer: those under `key` of a Sequence, else `node` itself."""
    if not isinstance(node, dict):
        return []
    inner = node.get(key) if node.get("type") == "Sequence" else [node]
    return [step for step in inner if isinstance(step, dict)] if isinstance(inner, list) else []


def utf8(text: object, what: str) -> str:
    """The text, if it can be UTF-8: JSON can spell lone surrogates. Raises CorruptFileError."""
    if isinstance(text, str):
        with suppress(UnicodeEncodeError):
            text.encode("utf-8")
            return text
    raise bad(f"{what} is not text")


def bad(what: str) -> CorruptFileError:
    """The error for an invalid file."""
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
