"""A vocabulary as llama.cpp lists it: one token for each row of the embeddings, by id.

Rows without a token are called ``[PAD7]`` and unused, as by llama.cpp's converter. Tokens with ids past the last row
are left out, with a finding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.formats.gguf.hub.documents import GO_WITHOUT, bad, utf8
from ckptconv.formats.gguf.hub.sentencepiece import CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from ckptconv.io.limits import MAX_NODES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.documents import Documents
    from ckptconv.formats.gguf.values import Typed

TOKENIZER, TOKENIZER_CONFIG, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"

SPACE = "\u2581"
"""SentencePiece's spelling of a space."""

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""SentencePiece's names of tokens for single bytes."""

_UNUSED_SCORE, _ADDED_SCORE = -10000.0, -1000.0
_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_AROUND = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
"""Tokens that are special even if models don't mark them so; from llama.cpp's `does_token_look_special`."""


@dataclass(slots=True)
class Vocabulary:
    """Tokens, types and scores, by id.

    model:   llama.cpp's name for the kind of tokenizer.
    merges:  of byte-level BPE.
    entries: metadata that only this kind of tokenizer has.
    unknown: the id of the unknown token, if there is one.
    dropped: the number of tokens that were left out.
    """

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    has_scores: bool = True
    merges: list[str] = field(default_factory=list)
    entries: dict[str, Typed] = field(default_factory=dict)
    unknown: int | None = None
    dropped: int = 0

    @classmethod
    def of(cls, model: str, rows: int, *, scores: bool) -> Vocabulary:
        """A vocabulary of unused tokens. Raises LimitError."""
        if rows > MAX_NODES:
            raise LimitError(f"the embeddings have {rows:,} rows; the limit is {MAX_NODES:,}")
        return cls(model, [f"[PAD{row}]" for row in range(rows)], [UNUSED] * rows, [_UNUSED_SCORE] * rows, scores)

    def put(self, number: int, text: str, kind: int, score: float = 0.0) -> None:
        """Set a token, unless its id is past the last row. Raises CorruptFileError for a text that is not UTF-8."""
        if number >= len(self.tokens):
            self.dropped += 1
            return
        self.tokens[number], self.types[number], self.scores[number] = utf8(text, f"the token {number}"), kind, score
        if kind == UNKNOWN:
            self.unknown = number

    def put_added(self, added: Mapping[int, AddedToken]) -> None:
        """Set added tokens, which are found in texts before all others."""
        for number, token in added.items():
            if token.is_special:
                self.put(number, token.text, CONTROL, _ADDED_SCORE)
            else:
                self.put(number, token.text.replace(SPACE, " "), USER_DEFINED, _ADDED_SCORE)

    def ids(self) -> dict[str, int]:
        """The ids of the tokens, by text.

        Raises CorruptFileError for duplicates, on which llama.cpp aborts; it only gives names to empty tokens.
        """
        ids: dict[str, int] = {}
        for number, text in enumerate(self.tokens):
            first = ids.setdefault(text, number)
            if text and first != number:
                raise CorruptFileError(
                    f"the tokens {first:,} and {number:,} are both {text[:40]!r}, which llama.cpp does not load",
                    hint=GO_WITHOUT,
                )
        return ids

    def findings(self) -> list[Finding]:
        """A finding if tokens were left out."""
        if not self.dropped:
            return []
        many = "1 token is" if self.dropped == 1 else f"{self.dropped:,} tokens are"
        message = f"{many} left out: their ids are past the {len(self.tokens):,} rows of the embeddings"
        return [Finding("tokens", "warning", "", message)]

    def to_entries(self, pre: str) -> dict[str, Typed]:
        """The metadata entries; `pre` is the value of ``tokenizer.ggml.pre``."""
        entries: dict[str, Typed] = {
            "tokenizer.ggml.model": ("string", self.model),
            "tokenizer.ggml.pre": ("string", pre),
            "tokenizer.ggml.tokens": ("string[]", [*self.tokens]),
        }
        if self.has_scores:
            entries["tokenizer.ggml.scores"] = ("float32[]", [*self.scores])
        entries["tokenizer.ggml.token_type"] = ("int32[]", [*self.types])
        if self.merges:
            entries["tokenizer.ggml.merges"] = ("string[]", [*self.merges])
        return entries | self.entries


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that was added to the vocabulary; `special` if the tokenizer says so."""

    text: str
    special: bool

    @property
    def is_special(self) -> bool:
        return (
            self.special
            or self.text in _SPECIAL
            or any(self.text.startswith(head) and self.text.endswith(tail) for head, tail in _SPECIAL_AROUND)
        )


def added_tokens(documents: Documents) -> dict[int, AddedToken]:
    """The added tokens by id, from three files, of which later ones outrank earlier ones. Raises CorruptFileError."""
    found: dict[int, AddedToken] = {}
    for text, number in (documents.object(ADDED) or {}).items():
        found[token_id(number, ADDED)] = AddedToken(text, special=False)
    rows = (documents.object(TOKENIZER) or {}).get("added_tokens") or []
    if not isinstance(rows, list):
        raise bad(f"{TOKENIZER}: added_tokens is not a list")
    for row in rows:
        found[token_id(row.get("id") if isinstance(row, dict) else None, TOKENIZER)] = _added_token(row, TOKENIZER)
    decoder = (documents.object(TOKENIZER_CONFIG) or {}).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise bad(f"{TOKENIZER_CONFIG}: added_tokens_decoder is not an object")
    for key, row in decoder.items():
        number = int(key) if key.isdecimal() and len(key) < 12 else key
        found[token_id(number, TOKENIZER_CONFIG)] = _added_token(row, TOKENIZER_CONFIG)
    return found


def token_id(number: object, document: str) -> int:
    """The token id that a file states. Raises CorruptFileError."""
    if type(number) is not int or not 0 <= number < 1 << 31:
        raise bad(f"{document}: {str(number)[:40]!r} is not an id of a token")
    return number


def _added_token(row: Any, document: str) -> AddedToken:
    if not isinstance(row, dict) or not isinstance(row.get("content"), str):
        raise bad(f"{document}: an added token has no content")
    return AddedToken(row["content"], row.get("special") is True)
