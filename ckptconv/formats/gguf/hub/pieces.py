"""Vocabularies without merges: from SentencePiece's own file, and from tokenizer.json of unigrams and WordPiece.

tokenizer.model, BPE         "llama": merged by scores
tokenizer.model, unigrams    "t5": the likeliest pieces, by scores
WordPiece, vocab.txt         "bert": U+2581 before the first piece of a word; BERT has ## before the other pieces
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub import sentencepiece
from ckptconv.formats.gguf.hub.config import number
from ckptconv.formats.gguf.hub.documents import GO_WITHOUT, bad, steps
from ckptconv.formats.gguf.hub.sentencepiece import BPE, BYTE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, USER_DEFINED
from ckptconv.formats.gguf.hub.vocabulary import BYTES, SPACE, TOKENIZER, TOKENIZER_CONFIG, Vocabulary, token_id

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.documents import Documents
    from ckptconv.formats.gguf.values import Typed

_CONTINUES = "##"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def from_model(data: bytes, documents: Documents, rows: int) -> Vocabulary:
    """From a tokenizer.model. Raises CorruptFileError, LimitError, UnsupportedError."""
    model = sentencepiece.parse(data)
    if model.kind not in (BPE, UNIGRAM):
        raise UnsupportedError(
            f"tokenizer.model is of type {model.kind}: llama.cpp has SentencePiece's BPE and unigrams", hint=GO_WITHOUT
        )
    vocabulary = Vocabulary.of("llama" if model.kind == BPE else "t5", rows, scores=True)
    for place, (text, score, kind) in enumerate(model.pieces):
        vocabulary.put(place, text.replace(SPACE, " ") if kind == USER_DEFINED else text, kind, score)
    stated = (documents.object(TOKENIZER_CONFIG) or {}).get("add_prefix_space")
    adds_prefix = stated if isinstance(stated, bool) else model.prefix
    vocabulary.entries["tokenizer.ggml.add_space_prefix"] = ("bool", adds_prefix)
    if model.kind == UNIGRAM:
        if any(kind == BYTE for _, _, kind in model.pieces):
            documents.findings.append(_byte_fallback_finding())
        vocabulary.entries |= _normalizer_entries(model.charsmap, trims=model.trims)
    return vocabulary


def from_unigrams(document: dict[str, Any], documents: Documents, rows: int) -> Vocabulary:
    """From a tokenizer.json of unigrams. Raises CorruptFileError."""
    model = document["model"]
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not pieces:
        raise bad(f"{TOKENIZER} has no vocabulary")
    falls_back = model.get("byte_fallback") is True
    if falls_back:
        documents.findings.append(_byte_fallback_finding())
    vocabulary = Vocabulary.of("t5", rows, scores=True)
    for place, piece in enumerate(pieces):
        if not isinstance(piece, list) or len(piece) != 2 or not isinstance(piece[0], str):
            raise bad(f"{TOKENIZER}: {str(piece)[:40]!r} is not a piece with its score")
        kind = BYTE if falls_back and piece[0] in BYTES else NORMAL
        if place == model.get("unk_id"):
            kind = UNKNOWN
        vocabulary.put(place, piece[0], kind, number(piece[1], f"{TOKENIZER}: a score"))
    charsmaps = [step.get("precompiled_charsmap") for step in steps(document.get("normalizer"), "normalizers")]
    text = next((charsmap for charsmap in charsmaps if isinstance(charsmap, str)), "")
    try:
        charsmap = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise bad(f"{TOKENIZER}: precompiled_charsmap is not base64") from error
    vocabulary.entries |= _normalizer_entries(charsmap, trims=True)
    vocabulary.entries["tokenizer.ggml.add_space_prefix"] = ("bool", True)
    return vocabulary


def _byte_fallback_finding() -> Finding:
    """For unigrams that fall back to bytes: llama.cpp makes one unknown token of a text that has no pieces."""
    message = "what no piece has becomes bytes, and an unknown token in llama.cpp: such texts come out otherwise"
    return Finding("byte-fallback", "warning", "", message)


def _normalizer_entries(charsmap: bytes, *, trims: bool) -> dict[str, Typed]:
    entries: dict[str, Typed] = {"tokenizer.ggml.remove_extra_whitespaces": ("bool", trims)}
    if charsmap:
        entries["tokenizer.ggml.precompiled_charsmap"] = ("uint8[]", charsmap)
    return entries


def from_words(document: dict[str, Any], rows: int) -> Vocabulary:
    """From a tokenizer.json of WordPiece. Raises CorruptFileError, UnsupportedError."""
    model = document["model"]
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise bad(f"{TOKENIZER} has no vocabulary")
    if model.get("continuing_subword_prefix", _CONTINUES) != _CONTINUES:
        raise UnsupportedError(
            f"llama.cpp's WordPiece has no other mark than {_CONTINUES} for pieces within words", hint=GO_WITHOUT
        )
    lowercase = strip_accents = False
    for step in steps(document.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind == "BertNormalizer":
            lowercase = step.get("lowercase") is True
            stated = step.get("strip_accents")
            strip_accents = lowercase if stated is None else stated is True
        lowercase = lowercase or kind == "Lowercase"
        strip_accents = strip_accents or kind == "StripAccents"
    words = {token_id(place, TOKENIZER): text for text, place in vocab.items()}
    return _wordpiece(words, rows, lowercase=lowercase, strip_accents=strip_accents)


def from_vocab_txt(text: str, rows: int, config: dict[str, Any]) -> Vocabulary:
    """From a vocab.txt, which has one token per line; `config` is the tokenizer_config.json."""
    lowercase = config.get("do_lower_case") is not False
    stated = config.get("strip_accents")
    strip_accents = stated if isinstance(stated, bool) else lowercase
    words = dict(enumerate(text.removesuffix("\n").split("\n")))
    vocabulary = _wordpiece(words, rows, lowercase=lowercase, strip_accents=strip_accents)
    for place, word in words.items():
        if word in _SPECIAL:
            vocabulary.put(place, word, CONTROL)
    return vocabulary


def _wordpiece(words: dict[int, str], rows: int, *, lowercase: bool, strip_accents: bool) -> Vocabulary:
    vocabulary = Vocabulary.of("bert", rows, scores=False)
    for place, text in words.items():
        vocabulary.put(place, text.removeprefix(_CONTINUES) if text.startswith(_CONTINUES) else SPACE + text, NORMAL)
    vocabulary.entries["tokenizer.ggml.normalizer.lowercase"] = ("bool", lowercase)
    vocabulary.entries["tokenizer.ggml.normalizer.strip_accents"] = ("bool", strip_accents)
    return vocabulary
