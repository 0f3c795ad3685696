"""A tokenizer.json of byte-pair encoding, or vocab.json and merges.txt: the two kinds that llama.cpp has.

    bytes    texts are letters that stand for bytes, cut by patterns, and merged in the order of the merges: "gpt2"
    pieces   texts are characters with U+2581 for spaces, those without a token bytes as <0x0A>: "llama"

The second is what becomes of SentencePiece's models. llama.cpp merges such by the scores of what comes out, which a
tokenizer.json does not have; the merges are in the order of these scores, so that what is made first gets the highest.
Merges that make one piece in several places of that order have no such scores, and are refused, but for those that
make an added token (Gemma's line feeds): it is found before anything is merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.documents import GO_WITHOUT, bad, steps, utf8
from ckptconv.formats.gguf.hub.pre import pre_name, uses_bytes
from ckptconv.formats.gguf.hub.sentencepiece import BYTE, NORMAL, UNKNOWN
from ckptconv.formats.gguf.hub.vocabulary import BYTES, SPACE, TOKENIZER, Vocabulary, added_tokens, identity

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.documents import Documents

_PLAIN_PRE = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}


def from_json(document: dict[str, Any], documents: Documents, rows: int, pre: str | None) -> tuple[Vocabulary, str]:
    """The vocabulary, and the name of its cutting; `pre` is what a person says it is. Raises CorruptFileError,
    UnsupportedError.
    """
    model = document["model"]
    vocab = _ids(model.get("vocab"))
    merges = _pairs(model.get("merges"))
    if uses_bytes(document.get("pre_tokenizer")):
        name = pre or pre_name(document)
        documents.findings.extend(_normalized(document.get("normalizer")))
        return _of_bytes(vocab, merges, rows), name
    if model.get("byte_fallback") is True:
        added = {one.text for one in added_tokens(documents).values()}
        return _of_pieces(document, vocab, [pair for pair in merges if "".join(pair) not in added], rows), "default"
    raise UnsupportedError(
        "llama.cpp has no byte-pair encoding that is neither of bytes nor falls back to them", hint=GO_WITHOUT
    )


def from_lists(documents: Documents, kind: str, rows: int, pre: str | None) -> tuple[Vocabulary, str] | None:
    """From vocab.json and merges.txt, as tokenizers had them before; None where they are not there."""
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
    made = Vocabulary.of("gpt2", rows, scores=False)
    for text, number in vocab.items():
        made.put(number, text, NORMAL)
    made.merges = [f"{left} {right}" for left, right in merges]
    return made


def _of_pieces(document: dict[str, Any], vocab: dict[str, int], merges: list[tuple[str, str]], rows: int) -> Vocabulary:
    made = Vocabulary.of("llama", rows, scores=True)
    order: dict[str, int] = {}
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
        kind = UNKNOWN if text == unknown else BYTE if text in BYTES else NORMAL
        made.put(number, text, kind, -float(order[text]) if text in order else 0.0)
    made.entries["tokenizer.ggml.add_space_prefix"] = ("bool", _prepends(document))
    return made


def _prepends(document: dict[str, Any]) -> bool:
    """Whether a space is put before a text."""
    before, cut = (
        steps(document.get("normalizer"), "normalizers"),
        steps(document.get("pre_tokenizer"), "pretokenizers"),
    )
    for step in (*before, *cut):
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            return True
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            return bool(scheme != "never")
    return False


def _normalized(node: object) -> list[Finding]:
    """A word where texts are changed before they are cut, which llama.cpp does not do."""
    kinds = [str(step.get("type")) for step in steps(node, "normalizers")]
    if not kinds:
        return []
    message = f"texts are normalized before ({', '.join(kinds)[:80]}), which llama.cpp does not do"
    return [Finding("normalizer", "info" if kinds == ["NFC"] else "warning", TOKENIZER, message)]


def _ids(vocab: object) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise bad(f"{TOKENIZER} has no vocabulary")
    found = {text: identity(number, TOKENIZER) for text, number in vocab.items()}
    if len(set(found.values())) != len(found):
        raise bad(f"{TOKENIZER}: two tokens have one id")
    return found


def _pairs(merges: object) -> list[tuple[str, str]]:
    """Merges as pairs: lists of two, or texts with a space between."""
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
