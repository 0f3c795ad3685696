"""Tokens by their ids, as llama.cpp lists them: one for each row of the embeddings.

Rows without a token are called ``[PAD7]`` and unused, as llama.cpp's converter has them. Ids past the rows cannot be
asked for; that some are left out is said.
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
"""What SentencePiece writes for a space."""

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""What it calls the tokens of bytes."""

_UNUSED_SCORE, _ADDED_SCORE = -10000.0, -1000.0
_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_AROUND = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
"""Tokens that models call no special ones, and that are; llama.cpp's `does_token_look_special`."""


@dataclass(slots=True)
class Vocabulary:
    """Tokens, types and scores by id. `merges` and `entries` are what a kind of tokenizer has besides; `unknown` is the
    id of what stands for a text that no token has.
    """

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    has_scores: bool = True
    merges: list[str] = field(default_factory=list)
    entries: dict[str, Typed] = field(default_factory=dict)
    unknown: int | None = None
    past: int = 0

    @classmethod
    def of(cls, model: str, rows: int, *, scores: bool) -> Vocabulary:
        """Rows without tokens. Raises LimitError."""
        if rows > MAX_NODES:
            raise LimitError(f"the embeddings have {rows:,} rows; the limit is {MAX_NODES:,}")
        return cls(model, [f"[PAD{row}]" for row in range(rows)], [UNUSED] * rows, [_UNUSED_SCORE] * rows, scores)

    def put(self, number: int, text: str, kind: int, score: float = 0.0) -> None:
        """Raises CorruptFileError for a text that is not UTF-8."""
        if number >= len(self.tokens):
            self.past += 1
            return
        self.tokens[number], self.types[number], self.scores[number] = utf8(text, f"the token {number}"), kind, score
        if kind == UNKNOWN:
            self.unknown = number

    def put_added(self, added: Mapping[int, Added]) -> None:
        """Tokens that are found in texts before all others."""
        for number, one in added.items():
            if one.is_special:
                self.put(number, one.text, CONTROL, _ADDED_SCORE)
            else:
                self.put(number, one.text.replace(SPACE, " "), USER_DEFINED, _ADDED_SCORE)

    def ids(self) -> dict[str, int]:
        """The tokens by their texts. Raises CorruptFileError where two have one: llama.cpp aborts on such a file. Empty
        ones it names by their ids.
        """
        found: dict[str, int] = {}
        for number, text in enumerate(self.tokens):
            first = found.setdefault(text, number)
            if text and first != number:
                raise CorruptFileError(
                    f"the tokens {first:,} and {number:,} are both {text[:40]!r}, which llama.cpp does not load",
                    hint=GO_WITHOUT,
                )
        return found

    def finding(self) -> list[Finding]:
        """A word where tokens are left out."""
        if not self.past:
            return []
        many = "1 token is" if self.past == 1 else f"{self.past:,} tokens are"
        message = f"{many} left out: their ids are past the {len(self.tokens):,} rows of the embeddings"
        return [Finding("tokens", "warning", "", message)]

    def to_entries(self, pre: str) -> dict[str, Typed]:
        """Under llama.cpp's keys."""
        found: dict[str, Typed] = {
            "tokenizer.ggml.model": ("string", self.model),
            "tokenizer.ggml.pre": ("string", pre),
            "tokenizer.ggml.tokens": ("string[]", [*self.tokens]),
        }
        if self.has_scores:
            found["tokenizer.ggml.scores"] = ("float32[]", [*self.scores])
        found["tokenizer.ggml.token_type"] = ("int32[]", [*self.types])
        if self.merges:
            found["tokenizer.ggml.merges"] = ("string[]", [*self.merges])
        return found | self.entries


@dataclass(frozen=True, slots=True)
class Added:
    """A token beside the vocabulary."""

    text: str
    special: bool

    @property
    def is_special(self) -> bool:
        return (
            self.special
            or self.text in _SPECIAL
            or any(self.text.startswith(head) and self.text.endswith(tail) for head, tail in _SPECIAL_AROUND)
        )


def added_tokens(documents: Documents) -> dict[int, Added]:
    """All of them by id; what a later document says of one counts. Raises CorruptFileError."""
    found: dict[int, Added] = {}
    for text, number in (documents.object(ADDED) or {}).items():
        found[identity(number, ADDED)] = Added(text, special=False)
    rows = (documents.object(TOKENIZER) or {}).get("added_tokens") or []
    if not isinstance(rows, list):
        raise bad(f"{TOKENIZER}: added_tokens is not a list")
    for row in rows:
        found[identity(row.get("id") if isinstance(row, dict) else None, TOKENIZER)] = _added(row, TOKENIZER)
    decoder = (documents.object(TOKENIZER_CONFIG) or {}).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise bad(f"{TOKENIZER_CONFIG}: added_tokens_decoder is not an object")
    for key, row in decoder.items():
        number = int(key) if key.isdecimal() and len(key) < 12 else key
        found[identity(number, TOKENIZER_CONFIG)] = _added(row, TOKENIZER_CONFIG)
    return found


def identity(number: object, document: str) -> int:
    """A token's id. Raises CorruptFileError."""
    if type(number) is not int or not 0 <= number < 1 << 31:
        raise bad(f"{document}: {str(number)[:40]!r} is not an id of a token")
    return number


def _added(row: Any, document: str) -> Added:
    if not isinstance(row, dict) or not isinstance(row.get("content"), str):
        raise bad(f"{document}: an added token has no content")
    return Added(row["content"], row.get("special") is True)
