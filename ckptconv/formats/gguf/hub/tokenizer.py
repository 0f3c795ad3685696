"""The metadata entries for a model's tokenizer, from the files beside the weights.

SentencePiece's own file comes first, since it has the scores; then tokenizer.json; then the files of older tokenizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import EditError, UnsupportedError
from ckptconv.formats.gguf.hub import bpe, pieces
from ckptconv.formats.gguf.hub.documents import GO_WITHOUT
from ckptconv.formats.gguf.hub.sentencepiece import CONTROL, NORMAL, looks_like_a_model
from ckptconv.formats.gguf.hub.special import SpecialTokens, chat_templates
from ckptconv.formats.gguf.hub.vocabulary import TOKENIZER, TOKENIZER_CONFIG, added_tokens

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.hub.documents import Documents
    from ckptconv.formats.gguf.hub.vocabulary import Vocabulary
    from ckptconv.formats.gguf.values import Typed


def tokenizer(documents: Documents, config: Config, rows: int, pre: str | None) -> dict[str, Typed]:
    """The entries.

    rows: the number of rows of the embeddings.
    pre:  ``tokenizer.ggml.pre``, if the user sets it.

    Raises CkptconvError with the path of the file that is wrong.
    """
    vocabulary, pre_used = _vocabulary(documents, rows, pre)
    vocabulary.put_added(added_tokens(documents))
    documents.findings.extend(vocabulary.findings())
    special = SpecialTokens(documents, config, vocabulary.ids(), len(vocabulary.tokens))
    roles = special.entries(wordpiece=vocabulary.model == "bert")
    if vocabulary.unknown is not None:
        roles.setdefault("tokenizer.ggml.unknown_token_id", ("uint32", vocabulary.unknown))
    for number in special.numbers.values():
        if vocabulary.types[number] == NORMAL:
            vocabulary.types[number] = CONTROL
    return vocabulary.to_entries(pre_used) | roles | chat_templates(documents)


def _vocabulary(documents: Documents, rows: int, pre: str | None) -> tuple[Vocabulary, str]:
    """The vocabulary, and the value of ``tokenizer.ggml.pre``."""
    data, document = documents.data("tokenizer.model"), documents.object(TOKENIZER)
    if data is None and document is None:
        data = documents.data("spiece.model")  # T5's name for it
    if data is not None and (document is None or looks_like_a_model(data)):
        return pieces.from_model(data, documents, rows), "default"
    if document is not None:
        model = document.get("model")
        kind = model.get("type", "BPE") if isinstance(model, dict) else None
        match kind:
            case "BPE":
                return bpe.from_json(document, documents, rows, pre)
            case "Unigram":
                return pieces.from_unigrams(document, documents, rows), "default"
            case "WordPiece":
                return pieces.from_words(document, rows), "default"
        raise UnsupportedError(f"{TOKENIZER}: llama.cpp has no tokenizer of type {str(kind)[:40]!r}", hint=GO_WITHOUT)
    tokenizer_config = documents.object(TOKENIZER_CONFIG) or {}
    words = documents.text("vocab.txt")
    if words is not None:
        return pieces.from_vocab_txt(words, rows, tokenizer_config), "default"
    byte_level = bpe.from_lists(documents, str(tokenizer_config.get("tokenizer_class") or ""), rows, pre)
    if byte_level is None:
        raise EditError(
            f"--translate to-gguf: there is no tokenizer beside the weights (tokenizer.model, {TOKENIZER}, vocab.txt)",
            hint=f"download it too; {GO_WITHOUT}",
        )
    return byte_level
