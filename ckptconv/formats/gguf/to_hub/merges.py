"""The merges of a SentencePiece vocabulary, which has scores instead.

SentencePiece joins the two neighbours whose piece has the highest score, so each way to cut a piece into two others is
a merge, in the order of the pieces' scores. Of one piece, those of earlier parts come first, as transformers has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.gguf.hub.sentencepiece import NORMAL

if TYPE_CHECKING:
    from ckptconv.formats.gguf.to_hub.tokens import Tokens

MAX_PIECE = 1024
"""Characters of a piece that merges make; real ones have up to some hundred."""


MAX_CHARACTERS = 1 << 26
"""Of all merges; those of Gemma's 262,144 pieces have some 6 million."""


def merges_by_scores(tokens: Tokens) -> list[list[str]]:
    """The merges, as pairs. Raises LimitError for a piece that is too long, as it has as many cuts as characters, and
    for too many of them.
    """
    ids = {text: number for number, text in enumerate(tokens.texts) if tokens.kinds[number] == NORMAL}
    by_rank = sorted(ids, key=lambda text: -tokens.scores[ids[text]])
    found: list[list[str]] = []
    characters = 0
    for text in by_rank:
        if len(text) > MAX_PIECE:
            raise LimitError(f"a token has {len(text):,} characters; the limit for one that is merged is {MAX_PIECE:,}")
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [(ids[left], ids[right]) for left, right in cuts if left in ids and right in ids]
        characters += len(text) * len(known)
        if characters > MAX_CHARACTERS:
            raise LimitError(f"the limit for the characters of all merges is {MAX_CHARACTERS:,}")
        found += [[tokens.texts[left], tokens.texts[right]] for left, right in sorted(known)]
    return found
