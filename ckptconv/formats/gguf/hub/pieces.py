"""Vocabularies without merges: SentencePiece's own file, a tokenizer.json of unigrams, and BERT's WordPiece.

tokenizer.model of BPE       "llama": merged by scores
tokenizer.model of unigrams  "t5": the likeliest pieces, by scores
WordPiece, vocab.txt         "bert": words, with U+2581 before the first piece where BERT has ## before the others
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
from ckptconv.formats.gguf.hub.vocabulary import BYTES, SPACE, TOKENIZER, TOKENIZER_CONFIG, Vocabulary, identity

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.documents import Documents

_CONTINUES = "##"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def from_model(data: bytes, documents: Documents, rows: int) -> Vocabulary:
    """From a tokenizer.model. Raises CorruptFileError, LimitError, UnsupportedError."""
    model = sentencepiece.parse(data)
    if model.kind not in (BPE, UNIGRAM):
        raise UnsupportedError(
            f"tokenizer.model is of type {model.kind}: llama.cpp has SentencePiece's BPE and unigrams", hint=GO_WITHOUT
        )
    made = Vocabulary.of("llama" if model.kind == BPE else "t5", rows, scores=True)
    for place, (text, score, kind) in enumerate(model.pieces):
        made.put(place, text.replace(SPACE, " ") if kind == USER_DEFINED else text, kind, score)
    said = (documents.object(TOKENIZER_CONFIG) or {}).get("add_prefix_space")
    made.entries["tokenizer.ggml.add_space_prefix"] = ("bool", said if isinstance(said, bool) else model.prefix)
    if model.kind == UNIGRAM:
        documents.findings.extend(_fallback(bytes_=any(kind == BYTE for _, _, kind in model.pieces)))
        _normalizing(made, model.charsmap, trims=model.trims)
    return made


def from_unigrams(document: dict[str, Any], documents: Documents, rows: int) -> Vocabulary:
    """From a tokenizer.json of unigrams. Raises CorruptFileError."""
    model = document["model"]
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not pieces:
        raise bad(f"{TOKENIZER} has no vocabulary")
    falls_back = model.get("byte_fallback") is True
    documents.findings.extend(_fallback(bytes_=falls_back))
    made = Vocabulary.of("t5", rows, scores=True)
    for place, piece in enumerate(pieces):
        if not isinstance(piece, list) or len(piece) != 2 or not isinstance(piece[0], str):
            raise bad(f"{TOKENIZER}: {str(piece)[:40]!r} is not a piece with its score")
        kind = UNKNOWN if place == model.get("unk_id") else BYTE if falls_back and piece[0] in BYTES else NORMAL
        made.put(place, piece[0], kind, number(piece[1], f"{TOKENIZER}: a score"))
    maps = [step.get("precompiled_charsmap") for step in steps(document.get("normalizer"), "normalizers")]
    text = next((one for one in maps if isinstance(one, str)), "")
    try:
        charsmap = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise bad(f"{TOKENIZER}: precompiled_charsmap is not base64") from error
    _normalizing(made, charsmap, trims=True)
    made.entries["tokenizer.ggml.add_space_prefix"] = ("bool", True)
    return made


def _fallback(*, bytes_: bool) -> list[Finding]:
    """A word where a text that no piece has becomes bytes: llama.cpp's unigrams make one unknown token of it."""
    message = "what no piece has becomes bytes, and an unknown token in llama.cpp: such texts come out otherwise"
    return [Finding("byte-fallback", "warning", "", message)] if bytes_ else []


def _normalizing(made: Vocabulary, charsmap: bytes, *, trims: bool) -> None:
    made.entries["tokenizer.ggml.remove_extra_whitespaces"] = ("bool", trims)
    if charsmap:
        made.entries["tokenizer.ggml.precompiled_charsmap"] = ("uint8[]", charsmap)


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
    lower = strip = False
    for step in steps(document.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind == "BertNormalizer":
            lower = step.get("lowercase") is True
            strip = lower if step.get("strip_accents") is None else step.get("strip_accents") is True
        lower, strip = lower or kind == "Lowercase", strip or kind == "StripAccents"
    words = {identity(place, TOKENIZER): text for text, place in vocab.items()}
    return _words(words, rows, lower=lower, strip=strip)


def from_vocab_txt(text: str, rows: int, config: dict[str, Any]) -> Vocabulary:
    """From a vocab.txt, a token a line."""
    lower = config.get("do_lower_case") is not False
    said = config.get("strip_accents")
    words = dict(enumerate(text.removesuffix("\n").split("\n")))
    made = _words(words, rows, lower=lower, strip=said if isinstance(said, bool) else lower)
    for place, word in words.items():
        if word in _SPECIAL:
            made.put(place, word, CONTROL)
    return made


def _words(words: dict[int, str], rows: int, *, lower: bool, strip: bool) -> Vocabulary:
    made = Vocabulary.of("bert", rows, scores=False)
    for place, text in words.items():
        made.put(place, text.removeprefix(_CONTINUES) if text.startswith(_CONTINUES) else SPACE + text, NORMAL)
    made.entries["tokenizer.ggml.normalizer.lowercase"] = ("bool", lower)
    made.entries["tokenizer.ggml.normalizer.strip_accents"] = ("bool", strip)
    return made
