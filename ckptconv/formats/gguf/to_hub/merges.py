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


def merges_by_scores(tokens: Tokens) -> list[list[str]]:
    """The merges, as pairs. Raises LimitError for a piece that is too long: it has as many cuts as characters."""
    ids = {text: number for number, text in enumerate(tokens.texts) if tokens.kinds[number] == NORMAL}
    by_rank = sorted(ids, key=lambda text: -tokens.scores[ids[text]])
    found: list[list[str]] = []
    for text in by_rank:
        if len(text) > MAX_PIECE:
            raise LimitError(f"a token has {len(text):,} characters; the limit for one that is merged is {MAX_PIECE:,}")
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [(ids[left], ids[right]) for left, right in cuts if left in ids and right in ids]
        found += [[tokens.texts[left], tokens.texts[right]] for left, right in sorted(known)]
    return found
