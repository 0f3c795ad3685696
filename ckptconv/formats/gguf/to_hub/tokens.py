"""The vocabulary of a GGUF: texts, kinds and scores of its tokens, by id."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.formats.gguf.hub.sentencepiece import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from ckptconv.formats.gguf.to_hub.said import bad, is_text

if TYPE_CHECKING:
    from ckptconv.formats.gguf.to_hub.said import Said

_PADDING = re.compile(r"\[PAD\d+\]")
"""How llama.cpp's converter names rows of the embeddings that have no token."""

T5_PIECES, T5_BLANKS = 32_000, 100
"""The pieces in T5's SentencePiece file, and the tokens that transformers' T5Tokenizer puts behind them."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts, kinds (as SentencePiece numbers them) and scores."""

    texts: list[str]
    kinds: list[int]
    scores: list[float]

    @classmethod
    def of(cls, said: Said) -> Tokens:
        """Raises CorruptFileError for lists of other lengths, other types, and for two tokens with one text."""
        texts = _items(said, "tokens", str, None)
        count = len(texts)
        kinds = _items(said, "token_type", int, count) or [NORMAL] * count
        scores = [*map(float, _items(said, "scores", float, count))] or [0.0] * count
        if not all(map(math.isfinite, scores)):
            raise bad("tokenizer.ggml.scores has values that are no numbers")
        texts = [text or f"[EMPTY_{number}]" for number, text in enumerate(texts)]
        if count > said.rows:
            raise bad(f"tokenizer.ggml.tokens has {count:,} tokens, and the embeddings {said.rows:,} rows")
        if len({*texts}) < count:
            raise bad("tokenizer.ggml.tokens has the same text twice")
        return cls(texts, kinds, scores)

    @property
    def count(self) -> int:
        return len(self.texts)

    def is_padding(self, number: int) -> bool:
        """Whether it stands for a row of the embeddings without a token."""
        return self.kinds[number] == UNUSED and bool(_PADDING.fullmatch(self.texts[number]))

    def with_sentinels(self) -> Tokens:
        """With T5's 100 tokens for blanks, for which its SentencePiece file, and so llama.cpp's, has no names. The same
        tokens if these are not T5's.
        """
        blanks = range(T5_PIECES, T5_PIECES + T5_BLANKS)
        if self.count < blanks.stop or not all(map(self.is_padding, blanks)) or self.is_padding(T5_PIECES - 1):
            return self
        names = [f"<extra_id_{blanks.stop - 1 - number}>" for number in blanks]
        texts = [*self.texts[: blanks.start], *names, *self.texts[blanks.stop :]]
        kinds = [*self.kinds[: blanks.start], *[CONTROL] * T5_BLANKS, *self.kinds[blanks.stop :]]
        return Tokens(texts, kinds, self.scores)

    def vocab(self) -> dict[str, int]:
        """The ids by text, without padding. Added tokens are among them, so that they keep their ids."""
        return {text: number for number, text in enumerate(self.texts) if not self.is_padding(number)}

    def added(self) -> list[dict[str, Any]]:
        """The tokens that are found in a text before all others, as a tokenizer.json lists them."""
        return [
            {
                "id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": kind != USER_DEFINED,
            }
            for number, (text, kind) in enumerate(zip(self.texts, self.kinds, strict=True))
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]  # fmt: skip


def _items(said: Said, name: str, kind: type, count: int | None) -> list[Any]:
    """A list of the metadata; empty if there is none, which only the tokens must not be."""
    values: list[Any] = [*said.items(f"tokenizer.ggml.{name}")]
    if not values and count is not None:
        return []
    if any(type(value) is not kind and not (kind is float and type(value) is int) for value in values) or not values:
        raise bad(f"tokenizer.ggml.{name} is no list of {kind.__name__}")
    if kind is str and not is_text("".join(values)):
        raise bad(f"tokenizer.ggml.{name} has bytes that are no UTF-8")
    if count is not None and len(values) != count:
        raise bad(f"tokenizer.ggml.{name} has {len(values):,} items, of {count:,} tokens")
    return values
