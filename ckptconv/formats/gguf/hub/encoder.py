"""What llama.cpp has to know of an encoder besides: kinds of tokens, and how the vectors of a sentence become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.gguf.hub.documents import bad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""``llama_pooling_type``, by sentence-transformers' words, which were keys before: ``pooling_mode_mean_tokens``."""
_ENDINGS = ("", "_token", "_tokens")


def token_types(arch: str, config: Config) -> dict[str, Typed]:
    """How many kinds of tokens BERT tells apart: it is the tokenizer's in llama.cpp, whatever the tokenizer."""
    count: Typed = ("uint32", config.integer("type_vocab_size", default=1))
    return {"tokenizer.ggml.token_type_count": count} if arch == "bert" else {}


def pooling(arch: str, document: Mapping[str, object] | None) -> dict[str, Typed]:
    """How the vectors of a sentence's tokens become one, as sentence-transformers says it beside the model."""
    if document is None:
        return {}
    kind = next((number for word, number in _POOLING.items() if _pools(document, word)), None)
    joined = [key for key, value in document.items() if key.startswith("pooling_mode_") and value is True]
    if kind is None or len(joined) > 1:
        raise bad("the pooling is not one of mean, cls and lasttoken, which are llama.cpp's")
    return {f"{arch}.pooling_type": ("uint32", kind)}


def _pools(document: Mapping[str, object], word: str) -> bool:
    if document.get("pooling_mode") is not None:
        return document["pooling_mode"] == word
    return any(document.get(f"pooling_mode_{word}{ending}") is True for ending in _ENDINGS)
