"""Vocabularies with byte-pair encoding, from a tokenizer.json, or from vocab.json and merges.txt.

llama.cpp has two kinds:

    "gpt2"    byte-level: bytes are spelled as letters, texts are split by patterns, and merged in the merges' order
    "llama"   SentencePiece's: U+2581 for spaces; characters without a token become bytes, such as <0x0A>

llama.cpp merges the second kind by the scores of the resulting pieces, which a tokenizer.json does not have. But its
merges are in the order of these scores, so the piece that is merged first gets the highest score. If the merges of one
piece are not adjacent, no scores express their order, and the tokenizer is refused. Merges of added tokens (Gemma's
line feeds) don't matter: those are found before anything is merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.documents import GO_WITHOUT, bad, steps, utf8
from ckptconv.formats.gguf.hub.pre import pre_name, uses_bytes
from ckptconv.formats.gguf.hub.sentencepiece import BYTE, NORMAL, UNKNOWN
from ckptconv.formats.gguf.hub.vocabulary import BYTES, SPACE, TOKENIZER, Vocabulary, added_tokens, token_id

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.documents import Documents

_PLAIN_PRE = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}


def from_json(document: dict[str, Any], documents: Documents, rows: int, pre: str | None) -> tuple[Vocabulary, str]:
    """The vocabulary, and the value of ``tokenizer.ggml.pre``; `pre` is the user's. Raises CorruptFileError,
    UnsupportedError.
    """
    model = document["model"]
    vocab = _ids(model.get("vocab"))
    merges = _pairs(model.get("merges"))
    if uses_bytes(document.get("pre_tokenizer")):
        name = pre or pre_name(document)
        documents.findings.extend(_normalizer_findings(document.get("normalizer")))
        return _of_bytes(vocab, merges, rows), name
    if model.get("byte_fallback") is True:
        added = {token.text for token in added_tokens(documents).values()}
        merges = [pair for pair in merges if "".join(pair) not in added]
        return _with_scores(document, vocab, merges, rows), "default"
    raise UnsupportedError(
        "llama.cpp has no byte-pair encoding that is neither of bytes nor falls back to them", hint=GO_WITHOUT
    )


def from_lists(documents: Documents, kind: str, rows: int, pre: str | None) -> tuple[Vocabulary, str] | None:
    """From vocab.json and merges.txt, which predate tokenizer.json. None if they are not there.

    kind: the tokenizer's class.
    """
    vocab, lines = documents.object("vocab.json"), documents.text("merges.txt")
    if vocab is None or lines is None:
        return None
    name = pre or _PLAIN_PRE.get(kind.removesuffix("Fast"))
    if name is None:
        raise UnsupportedError(
            f"vocab.json and merges.txt do not say how a {kind or 'tokenizer'} cuts texts",
            hint="--meta tokenizer.ggml.pre=NAME says it; or save the tokenizer as a tokenizer.json",
        )
    merges = [line for line in lines.split("\n") if line.strip() and not line.startswith("#version")]
    return _of_bytes(_ids(vocab), _pairs(merges), rows), name


def _of_bytes(vocab: dict[str, int], merges: list[tuple[str, str]], rows: int) -> Vocabulary:
    vocabulary = Vocabulary.of("gpt2", rows, scores=False)
    for text, number in vocab.items():
        vocabulary.put(number, text, NORMAL)
    vocabulary.merges = [f"{left} {right}" for left, right in merges]
    return vocabulary


def _with_scores(
    document: dict[str, Any], vocab: dict[str, int], merges: list[tuple[str, str]], rows: int
) -> Vocabulary:
    vocabulary = Vocabulary.of("llama", rows, scores=True)
    order: dict[str, int] = {}  # piece → its place among the pieces that merges make
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last and piece in order:
            raise UnsupportedError(
                f"the merges that make {piece[:40]!r} are not side by side, as they are where pieces have scores",
                hint="a tokenizer.model beside it would have them",
            )
        order.setdefault(piece, len(order))
        last = piece
    unknown = document["model"].get("unk_token")
    for text, number in vocab.items():
        kind = BYTE if text in BYTES else NORMAL
        if text == unknown:
            kind = UNKNOWN
        vocabulary.put(number, text, kind, -float(order[text]) if text in order else 0.0)
    vocabulary.entries["tokenizer.ggml.add_space_prefix"] = ("bool", _adds_space_prefix(document))
    return vocabulary


def _adds_space_prefix(document: dict[str, Any]) -> bool:
    """Whether a space is put before a text."""
    normalizers = steps(document.get("normalizer"), "normalizers")
    pre_tokenizers = steps(document.get("pre_tokenizer"), "pretokenizers")
    for step in (*normalizers, *pre_tokenizers):
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            return True
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            return bool(scheme != "never")
    return False


def _normalizer_findings(node: object) -> list[Finding]:
    """A finding if texts are normalized before they are split, which llama.cpp does not do."""
    kinds = [str(step.get("type")) for step in steps(node, "normalizers")]
    if not kinds:
        return []
    message = f"texts are normalized before ({', '.join(kinds)[:80]}), which llama.cpp does not do"
    return [Finding("normalizer", "info" if kinds == ["NFC"] else "warning", TOKENIZER, message)]


def _ids(vocab: object) -> dict[str, int]:
    """The ids of the tokens by text. Raises CorruptFileError."""
    if not isinstance(vocab, dict) or not vocab:
        raise bad(f"{TOKENIZER} has no vocabulary")
    found = {text: token_id(number, TOKENIZER) for text, number in vocab.items()}
    if len(set(found.values())) != len(found):
        raise bad(f"{TOKENIZER}: two tokens have one id")
    return found


def _pairs(merges: object) -> list[tuple[str, str]]:
    """Merges as pairs; the file has them as lists of two, or as texts with a space between. Raises CorruptFileError."""
    if not isinstance(merges, list) or not merges:
        raise bad(f"{TOKENIZER} has no merges")
    found: list[tuple[str, str]] = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2:
            raise bad(f"{TOKENIZER}: {str(merge)[:40]!r} is not a merge")
        left, right = pair
        if not isinstance(left, str) or not isinstance(right, str) or " " in left + right or not left or not right:
            raise bad(f"{TOKENIZER}: {str(merge)[:40]!r} is not a merge")
        found.append((utf8(left, f"{TOKENIZER}: a merge"), utf8(right, f"{TOKENIZER}: a merge")))
    return found
