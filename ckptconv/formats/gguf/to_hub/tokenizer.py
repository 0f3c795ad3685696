"""tokenizer.json and tokenizer_config.json from a GGUF's metadata: `hub.tokenizer`, the other way.

    gpt2     byte-level BPE, with merges; the name for how texts are split (``pre``) stands for patterns (hub/pre.toml)
    llama    SentencePiece's BPE: merges of the scores, a space before each stretch of text, bytes for what is unknown
    t5       unigrams, with SentencePiece's table of normalizations
    bert     WordPiece

The result tokenizes as llama.cpp does. What its files don't say is reported where it may matter. Other kinds, and names
of patterns that are not known, are refused.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.pre import row_by_name, steps_of
from ckptconv.formats.gguf.hub.sentencepiece import BYTE, NORMAL
from ckptconv.formats.gguf.hub.vocabulary import SPACE, TOKENIZER, TOKENIZER_CONFIG
from ckptconv.formats.gguf.to_hub.merges import merges_by_scores
from ckptconv.formats.gguf.to_hub.said import bad
from ckptconv.formats.gguf.to_hub.special import (
    added_around,
    chat_template,
    post_processor,
    special_ids,
    wordpiece_processor,
)
from ckptconv.formats.gguf.to_hub.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.formats.gguf.to_hub.said import Said

_KIND = "tokenizer.ggml.model"
_NONE = ("None", "none", "no_vocab")
_METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
_SPACES_END = {"type": "Strip", "strip_left": False, "strip_right": True}
_SPACES_BETWEEN = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}


@dataclass(frozen=True, slots=True)
class RestoredTokenizer:
    """The two files, and what the user should know about them."""

    documents: dict[str, Any]
    findings: tuple[Finding, ...]


def restore_tokenizer(said: Said) -> RestoredTokenizer | None:
    """The tokenizer of a GGUF; None if it has none. Raises CorruptFileError, LimitError, UnsupportedError."""
    kind = str(said.get(_KIND))
    if kind in _NONE:
        return None
    if kind not in _KINDS:
        raise UnsupportedError(
            f"no {TOKENIZER} can be made of a tokenizer {kind[:40]!r}",
            hint=f"those of {', '.join(_KINDS)} can; take the model's own {TOKENIZER}",
        )
    stated, findings = Tokens.of(said), list[Finding]()
    tokens = stated.with_sentinels() if kind == "t5" else stated
    if tokens is not stated:
        message = "the 100 tokens for blanks (<extra_id_0>, …) get T5's names, which the file does not say"
        findings.append(Finding("tokens", "info", TOKENIZER, message))
    ids = {role: number for role, number in special_ids(said).items() if number < tokens.count}
    parts = _KINDS[kind](said, tokens, ids, findings)
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens.added(), **parts}
    return RestoredTokenizer({TOKENIZER: document, TOKENIZER_CONFIG: _config(said, kind, tokens, ids)}, tuple(findings))


def _config(said: Said, kind: str, tokens: Tokens, ids: Mapping[str, int]) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    roles = {"bos": "cls"} if kind == "bert" else {}
    for role, number in ids.items():
        if role != "eot" and (kind, role) != ("bert", "eos"):
            config[f"{roles.get(role, role)}_token"] = tokens.texts[number]
    config["clean_up_tokenization_spaces"] = False
    length = said.get("context_length")
    if type(length) is int:
        config["model_max_length"] = length
    template = chat_template(said)
    return config if template is None else {**config, "chat_template": template}


def _byte_level(said: Said, tokens: Tokens, ids: Mapping[str, int], findings: list[Finding]) -> dict[str, Any]:
    name = said.get("tokenizer.ggml.pre")
    row = row_by_name(str(name))
    if row is None:
        raise UnsupportedError(
            f"no {TOKENIZER} can be made: how tokenizer.ggml.pre {str(name)[:40]!r} splits texts is not known",
            hint="--meta tokenizer.ggml.pre=NAME says it, as qwen2; or take the model's own tokenizer.json",
        )
    steps, vocab = steps_of(row), tokens.vocab()
    normalizer = {"type": "NFC"} if name in row.get("nfc", ()) else None
    if normalizer:
        message = f"texts are normalized (NFC) as by the tokenizers that are called {name}, which the file does not say"
        findings.append(Finding("normalizer", "info", TOKENIZER, message))
    bos, eos = added_around(said, "gpt2", bos=row.get("bos", False))
    return {
        "normalizer": normalizer,
        "pre_tokenizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": post_processor(ids, tokens.texts, bos=bos, eos=eos),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(vocab, _merges(said, vocab), ignore_merges=row.get("whole", False)),
    }


def _bpe(vocab: dict[str, int], merges: list[list[str]], **more: Any) -> dict[str, Any]:
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    }  # fmt: skip
    return {**model, **more, "vocab": vocab, "merges": merges}


def _merges(said: Said, vocab: Mapping[str, int]) -> list[list[str]]:
    """The merges as pairs of tokens whose sum is a token. Raises CorruptFileError."""
    found = []
    for merge in said.items("tokenizer.ggml.merges"):
        pair = merge.split(" ") if isinstance(merge, str) else []
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise bad(f"tokenizer.ggml.merges: {str(merge)[:40]!r} does not make a token of two")
        found.append(pair)
    return found


def _sentencepiece(said: Said, tokens: Tokens, ids: Mapping[str, int], _: list[Finding]) -> dict[str, Any]:
    prefix = _flag(said, "add_space_prefix", default=True)
    bos, eos = added_around(said, "llama", bos=True)
    to_spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    from_spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    behind = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    decoders = [from_spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *behind]
    unknown = tokens.texts[ids["unk"]] if "unk" in ids else None
    model = _bpe(
        tokens.vocab(), merges_by_scores(tokens), unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in tokens.kinds
    )
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, to_spaces]},
        "pre_tokenizer": None,
        "post_processor": post_processor(ids, tokens.texts, bos=bos, eos=eos),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _unigrams(said: Said, tokens: Tokens, ids: Mapping[str, int], _: list[Finding]) -> dict[str, Any]:
    bos, eos = added_around(said, "t5", bos=False)
    charsmap = said.items("tokenizer.ggml.precompiled_charsmap")
    table = [{"type": "Precompiled", "precompiled_charsmap": _base64(charsmap)}] if charsmap else []
    spaces = [_SPACES_END, _SPACES_BETWEEN] if _flag(said, "remove_extra_whitespaces", default=False) else []
    count = tokens.count
    while count and tokens.is_padding(count - 1):
        count -= 1
    unknown = ids.get("unk", count)
    prefix = "always" if _flag(said, "add_space_prefix", default=True) else "never"
    metaspace = {**_METASPACE, "prepend_scheme": prefix}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*table, *spaces]},
        "pre_tokenizer": metaspace,
        "post_processor": post_processor(ids, tokens.texts, bos=bos, eos=eos),
        "decoder": metaspace,
        "model": {
            "type": "Unigram", "unk_id": unknown if unknown < count else None, "byte_fallback": BYTE in tokens.kinds,
            "vocab": [[text, score] for text, score in zip(tokens.texts[:count], tokens.scores, strict=False)],
        },
    }  # fmt: skip


def _base64(values: list[Any] | bytes) -> str:
    """A table of normalizations, which begins with the size of its first part. Raises CorruptFileError."""
    try:
        data = bytes(values)
    except (TypeError, ValueError) as error:
        raise bad("tokenizer.ggml.precompiled_charsmap is no bytes") from error
    if len(data) < 4 or int.from_bytes(data[:4], "little") > len(data) - 4:
        raise bad("tokenizer.ggml.precompiled_charsmap is cut short")
    return base64.b64encode(data).decode()


def _wordpiece(said: Said, tokens: Tokens, ids: Mapping[str, int], findings: list[Finding]) -> dict[str, Any]:
    vocab: dict[str, int] = {}
    for text, number in tokens.vocab().items():
        if tokens.kinds[number] == NORMAL:
            text = text.removeprefix(SPACE) if text.startswith(SPACE) else f"##{text}"
        if vocab.setdefault(text, number) != number:
            raise bad(f"tokenizer.ggml.tokens has {text[:40]!r} twice")
    unknown = tokens.texts[ids["unk"]] if "unk" in ids else "[UNK]"
    if unknown not in vocab:
        raise bad(f"tokenizer.ggml.tokens has no {unknown[:40]!r}")
    stated = said.get("tokenizer.ggml.normalizer.lowercase")
    has_capitals = any("A" <= letter <= "Z" for text in vocab if not text.startswith("[") for letter in text)
    lowercase = _flag(said, "normalizer.lowercase", default=not has_capitals)
    if stated is None:
        message = "the file does not say whether texts become lower case: as the tokens have" + (
            " capitals, they do not" if has_capitals else " no capitals, they do"
        )
        findings.append(Finding("normalizer", "info", TOKENIZER, message))
    return {
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": _flag(said, "normalizer.strip_accents", default=lowercase), "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": wordpiece_processor(ids, tokens.texts),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": unknown,
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab,
        },
    }  # fmt: skip


def _flag(said: Said, name: str, *, default: bool) -> bool:
    value = said.get(f"tokenizer.ggml.{name}")
    if value is not None and type(value) is not bool:
        raise bad(f"tokenizer.ggml.{name} is {str(value)[:40]!r}")
    return default if value is None else value


_KINDS: Mapping[str, Callable[[Said, Tokens, Mapping[str, int], list[Finding]], dict[str, Any]]] = {
    "gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigrams, "bert": _wordpiece,
}  # fmt: skip
