"""Tokens with a part to play, which of them are put around a text, and chat templates.

A token is named by its text in tokenizer_config.json or special_tokens_map.json, or by its id in config.json or
generation_config.json; the first that says it counts, as in llama.cpp's converter. What is put around a text says the
post_processor of a tokenizer.json, and ``add_bos_token`` and ``add_eos_token`` outrank it, as transformers has it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.errors import LimitError
from ckptconv.formats.gguf.hub.documents import bad, utf8
from ckptconv.formats.gguf.hub.vocabulary import TOKENIZER, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.hub.documents import Documents
    from ckptconv.formats.gguf.values import Typed

_KEYS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "cls": "cls", "mask": "mask",
    "eot": "eot",
}  # fmt: skip
"""llama.cpp's words for them; it has no key for cls since its own is bos."""

_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
"""What its tokens are called where no document says so."""

_TEMPLATE = "tokenizer.chat_template"
_MOST = 100
"""Chat templates, each of which is a key of the file; models have up to four."""


class Special:
    """The special tokens of one model, whose vocabulary is `ids`, texts by id."""

    def __init__(self, documents: Documents, config: Config, ids: Mapping[str, int], count: int) -> None:
        self.documents, self.config, self.ids, self.count = documents, config, ids, count
        self.said = documents.object(TOKENIZER_CONFIG) or {}
        self.texts = {role: text for role in _KEYS if (text := self.named(role)) is not None}
        self.adds: dict[str, bool] = {}
        self.numbers: dict[str, int] = {}

    def named(self, role: str) -> str | None:
        """The text of a token, where a document names it by that."""
        for document in (self.said, self.documents.object("special_tokens_map.json") or {}):
            token = document.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
        return None

    def entries(self, *, words: bool) -> dict[str, Typed]:
        """Raises CorruptFileError. `words`: BERT's first and last token are llama.cpp's bos and eos."""
        if words:
            self.texts = {role: text for role, text in _BERT.items() if text in self.ids} | self.texts
        for own, other in (("bos", "cls"), ("eos", "sep")):
            if words and own not in self.texts and other in self.texts:
                self.texts[own] = self.texts[other]
        self.around()
        found: dict[str, Typed] = {}
        for role, word in _KEYS.items():
            number = self.number(role)
            if number is not None:
                self.numbers[role] = number
            if number is not None and role != "cls":
                found[f"tokenizer.ggml.{word}_token_id"] = ("uint32", number)
        for role in ("bos", "eos"):
            said = self.said.get(f"add_{role}_token")
            if isinstance(said, bool):
                self.adds[role] = said
            if role in self.adds:
                found[f"tokenizer.ggml.add_{role}_token"] = ("bool", self.adds[role])
        return found

    def number(self, role: str) -> int | None:
        """The id of a token; a finding where one is named that is not there."""
        if role in self.texts:
            number = self.ids.get(self.texts[role])
            if number is not None:
                return number
            message = f"{role}_token {self.texts[role][:40]!r} is not a token of the vocabulary, and left out"
            self.documents.findings.append(Finding("special-token", "warning", TOKENIZER_CONFIG, message))
        for values in (self.config.values, self.documents.object("generation_config.json") or {}):
            number = values.get(f"{role}_token_id")
            number = number[0] if isinstance(number, list) and number else number
            if type(number) is int and 0 <= number < self.count:
                return number
        return None

    def around(self) -> None:
        """What a tokenizer.json puts before and behind a text."""
        document = self.documents.object(TOKENIZER)
        if document is None:
            return
        first, last = _around(document.get("post_processor"))
        self.adds = {"bos": first is not None, "eos": last is not None}
        if first is not None:
            self.texts["bos"] = first
        if last is not None and last != self.texts.get("eos"):
            if "eos" in self.texts:
                self.texts["eot"] = self.texts["eos"]
            self.texts["eos"] = last


def _around(node: object) -> tuple[str | None, str | None]:
    """The tokens before and behind a single text."""
    processors = node.get("processors") if isinstance(node, dict) else None
    for one in processors if isinstance(processors, list) else [node]:
        if not isinstance(one, dict):
            continue
        if one.get("type") in ("RobertaProcessing", "BertProcessing"):
            return _first_text(one.get("cls")), _first_text(one.get("sep"))
        if one.get("type") == "TemplateProcessing":
            single = one.get("single")
            tokens = [_token(piece) for piece in single] if isinstance(single, list) else []
            if len(tokens) > 1:
                return tokens[0], tokens[-1]
    return None, None


def _token(piece: object) -> str | None:
    token = piece.get("SpecialToken") if isinstance(piece, dict) else None
    text = token.get("id") if isinstance(token, dict) else None
    return text if isinstance(text, str) else None


def _first_text(pair: object) -> str | None:
    return pair[0] if isinstance(pair, list) and pair and isinstance(pair[0], str) else None


def chat_templates(documents: Documents) -> dict[str, Typed]:
    """The template, and others by their names. Raises CorruptFileError, LimitError."""
    said: Any = documents.text("chat_template.jinja")
    if said is None:
        said = (documents.object(TOKENIZER_CONFIG) or {}).get("chat_template")
    if said is None:
        said = (documents.object("chat_template.json") or {}).get("chat_template")
    if said is None:
        return {}
    if isinstance(said, str):
        return {_TEMPLATE: ("string", utf8(said, "the chat_template"))}
    if not isinstance(said, list):
        raise bad(f"{TOKENIZER_CONFIG}: chat_template is not text")
    if len(said) > _MOST:
        message = f"{TOKENIZER_CONFIG} has {len(said):,} chat templates; the limit is {_MOST}"
        raise LimitError(message)
    found: dict[str, Typed] = {}
    for one in said:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise bad(f"{TOKENIZER_CONFIG}: a chat_template has no name")
        name = re.sub(r"[^A-Za-z0-9]", "_", one["name"])[:80]
        found[_TEMPLATE if name == "default" else f"{_TEMPLATE}.{name}"] = (
            "string",
            utf8(one.get("template"), "a chat_template"),
        )
    names = [key.removeprefix(f"{_TEMPLATE}.") for key in found if key != _TEMPLATE]
    return {"tokenizer.chat_templates": ("string[]", names), **found} if names else found
