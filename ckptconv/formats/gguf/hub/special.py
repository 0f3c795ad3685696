"""Special tokens (bos, eos, …), whether they are added around a text, and chat templates.

Special tokens are stated by text in tokenizer_config.json or special_tokens_map.json, or by id in config.json or
generation_config.json; the first of these counts, as in llama.cpp's converter. The tokenizer.json's post_processor
states which tokens are added around a text; ``add_bos_token`` and ``add_eos_token`` outrank it, as in transformers.
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

KEYS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "cls": "cls", "mask": "mask",
    "eot": "eot",
}  # fmt: skip
"""llama.cpp's names for the roles, misspelling included. It has no key for cls, whose role bos has."""

_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
"""BERT's special tokens, unless a file states others."""

TEMPLATE = "tokenizer.chat_template"
_MAX_TEMPLATES = 100
"""Each is a key of the file; models have up to four."""


class SpecialTokens:
    """The special tokens of a model.

    ids:     the ids of the vocabulary's tokens, by text.
    count:   the number of tokens.
    texts:   the special tokens' texts, by role.
    adds:    whether bos and eos are added around a text.
    numbers: the special tokens' ids, by role; `entries` finds them.
    """

    def __init__(self, documents: Documents, config: Config, ids: Mapping[str, int], count: int) -> None:
        self.documents, self.config, self.ids, self.count = documents, config, ids, count
        self.tokenizer_config = documents.object(TOKENIZER_CONFIG) or {}
        self.texts = {role: text for role in KEYS if (text := self._stated_text(role)) is not None}
        self.adds: dict[str, bool] = {}
        self.numbers: dict[str, int] = {}

    def _stated_text(self, role: str) -> str | None:
        for document in (self.tokenizer_config, self.documents.object("special_tokens_map.json") or {}):
            token = document.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
        return None

    def entries(self, *, wordpiece: bool) -> dict[str, Typed]:
        """The metadata entries. With `wordpiece`, cls and sep are llama.cpp's bos and eos. Raises CorruptFileError."""
        if wordpiece:
            self._set_wordpiece_texts()
        self._read_post_processor()
        entries: dict[str, Typed] = {}
        for role, name in KEYS.items():
            number = self._id(role)
            if number is None:
                continue
            self.numbers[role] = number
            if role != "cls":
                entries[f"tokenizer.ggml.{name}_token_id"] = ("uint32", number)
        for role in ("bos", "eos"):
            stated = self.tokenizer_config.get(f"add_{role}_token")
            if isinstance(stated, bool):
                self.adds[role] = stated
            if role in self.adds:
                entries[f"tokenizer.ggml.add_{role}_token"] = ("bool", self.adds[role])
        return entries

    def _set_wordpiece_texts(self) -> None:
        self.texts = {role: text for role, text in _BERT.items() if text in self.ids} | self.texts
        for role, bert_role in (("bos", "cls"), ("eos", "sep")):
            if role not in self.texts and bert_role in self.texts:
                self.texts[role] = self.texts[bert_role]

    def _id(self, role: str) -> int | None:
        """The id of a special token, if a file states it; adds a finding if the vocabulary has no such token."""
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

    def _read_post_processor(self) -> None:
        """Take over the tokens that the tokenizer.json adds around a text; another eos then becomes eot."""
        document = self.documents.object(TOKENIZER)
        if document is None:
            return
        first, last = _added_around(document.get("post_processor"))
        self.adds = {"bos": first is not None, "eos": last is not None}
        if first is not None:
            self.texts["bos"] = first
        if last is not None and last != self.texts.get("eos"):
            if "eos" in self.texts:
                self.texts["eot"] = self.texts["eos"]
            self.texts["eos"] = last


def _added_around(post_processor: object) -> tuple[str | None, str | None]:
    """The tokens that a post_processor adds before and behind a single text."""
    processors = post_processor.get("processors") if isinstance(post_processor, dict) else None
    for processor in processors if isinstance(processors, list) else [post_processor]:
        if not isinstance(processor, dict):
            continue
        if processor.get("type") in ("RobertaProcessing", "BertProcessing"):
            return _first_text(processor.get("cls")), _first_text(processor.get("sep"))
        if processor.get("type") == "TemplateProcessing":
            single = processor.get("single")
            tokens = [_special_token(piece) for piece in single] if isinstance(single, list) else []
            if len(tokens) > 1:
                return tokens[0], tokens[-1]
    return None, None


def _special_token(piece: object) -> str | None:
    token = piece.get("SpecialToken") if isinstance(piece, dict) else None
    text = token.get("id") if isinstance(token, dict) else None
    return text if isinstance(text, str) else None


def _first_text(pair: object) -> str | None:
    return pair[0] if isinstance(pair, list) and pair and isinstance(pair[0], str) else None


def chat_templates(documents: Documents) -> dict[str, Typed]:
    """The entries for the chat template, or for several named ones. Raises CorruptFileError, LimitError."""
    stated: Any = documents.text("chat_template.jinja")
    if stated is None:
        stated = (documents.object(TOKENIZER_CONFIG) or {}).get("chat_template")
    if stated is None:
        stated = (documents.object("chat_template.json") or {}).get("chat_template")
    if stated is None:
        return {}
    if isinstance(stated, str):
        return {TEMPLATE: ("string", utf8(stated, "the chat_template"))}
    if not isinstance(stated, list):
        raise bad(f"{TOKENIZER_CONFIG}: chat_template is not text")
    if len(stated) > _MAX_TEMPLATES:
        raise LimitError(f"{TOKENIZER_CONFIG} has {len(stated):,} chat templates; the limit is {_MAX_TEMPLATES}")
    entries: dict[str, Typed] = {}
    for template in stated:
        if not isinstance(template, dict) or not isinstance(template.get("name"), str):
            raise bad(f"{TOKENIZER_CONFIG}: a chat_template has no name")
        name = re.sub(r"[^A-Za-z0-9]", "_", template["name"])[:80]
        key = TEMPLATE if name == "default" else f"{TEMPLATE}.{name}"
        entries[key] = ("string", utf8(template.get("template"), "a chat_template"))
    names = [key.removeprefix(f"{TEMPLATE}.") for key in entries if key != TEMPLATE]
    return {"tokenizer.chat_templates": ("string[]", names), **entries} if names else entries
