"""Special tokens of a GGUF: their ids, whether bos and eos are added around a text, and chat templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.formats.gguf.hub.special import KEYS, TEMPLATE
from ckptconv.formats.gguf.to_hub.said import bad, is_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.to_hub.said import Said

_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "sep": 102, "unk": 100, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}
"""llama.cpp's ids by kind of tokenizer, where a file says none."""

_ADDS: Mapping[str, tuple[bool, bool]] = {"llama": (True, False), "t5": (False, True)}
"""Whether llama.cpp adds bos and eos, by kind of tokenizer, where a file does not say."""
_ENDS = ("eot", "eom")
"""Further tokens at which a text may end: of a turn, of a message."""


def special_ids(said: Said) -> dict[str, int]:
    """The ids by role, of those that the vocabulary has."""
    kind = str(said.get("tokenizer.ggml.model"))
    count = said.rows
    found = dict(_DEFAULTS.get(kind, {}))
    for role, name in KEYS.items():
        number = said.get(f"tokenizer.ggml.{name}_token_id")
        if type(number) is int:
            found[role] = number
    return {role: number for role, number in found.items() if 0 <= number < count}


def ends(said: Said) -> list[int]:
    """The ids of the tokens at which generating stops, eos first."""
    first = special_ids(said).get("eos")
    more = [said.get(f"tokenizer.ggml.{role}_token_id") for role in _ENDS]
    found = [number for number in (first, *more) if type(number) is int and 0 <= number < said.rows]
    return [*dict.fromkeys(found)]


def added_around(said: Said, kind: str, *, bos: bool) -> tuple[bool, bool]:
    """Whether bos and eos are added around a text. `bos`: how texts of this kind begin unless the file says otherwise.

    Raises CorruptFileError.
    """
    found = []
    for role, default in zip(("bos", "eos"), _ADDS.get(kind, (bos, False)), strict=True):
        value = said.get(f"tokenizer.ggml.add_{role}_token")
        if value is not None and type(value) is not bool:
            raise bad(f"tokenizer.ggml.add_{role}_token is {str(value)[:40]!r}")
        found.append(default if value is None else value)
    return found[0], found[1]


def chat_template(said: Said) -> str | list[dict[str, str]] | None:
    """The chat template, or several by name; None if there is none. Raises CorruptFileError."""
    first, names = said.get(TEMPLATE), said.get(f"{TEMPLATE}s")
    named: dict[str, Any] = {"default": first} if first is not None else {}
    for name in names if isinstance(names, list) else [names] if isinstance(names, str) else []:
        named[str(name)] = said.get(f"{TEMPLATE}.{name}")
    if not all(isinstance(text, str) and is_text(text + name) for name, text in named.items()):
        raise bad(f"{TEMPLATE} is no text")
    if [*named] == ["default"]:
        return str(first)
    return [{"name": name, "template": text} for name, text in named.items()] or None


def post_processor(ids: Mapping[str, int], tokens: list[str], *, bos: bool, eos: bool) -> dict[str, Any] | None:
    """The step of a tokenizer.json that adds bos and eos around each text; None if neither is added."""
    around = [role for role, adds in (("bos", bos), ("eos", eos)) if adds and role in ids]
    if not around:
        return None

    def text(name: str, number: int) -> list[dict[str, Any]]:
        before = [_special(tokens[ids["bos"]], number)] if "bos" in around else []
        behind = [_special(tokens[ids["eos"]], number)] if "eos" in around else []
        return [*before, {"Sequence": {"id": name, "type_id": number}}, *behind]

    return _template(text("A", 0), [*text("A", 0), *text("B", 1)], {tokens[ids[role]]: ids[role] for role in around})


def wordpiece_processor(ids: Mapping[str, int], tokens: list[str]) -> dict[str, Any] | None:
    """BERT's: ``[CLS] A [SEP]``, or ``[CLS] A [SEP] B [SEP]``."""
    if not {"bos", "sep"} <= ids.keys():
        return None
    cls, sep = tokens[ids["bos"]], tokens[ids["sep"]]
    single = [_special(cls, 0), {"Sequence": {"id": "A", "type_id": 0}}, _special(sep, 0)]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, _special(sep, 1)]
    return _template(single, pair, {cls: ids["bos"], sep: ids["sep"]})


def _special(token: str, number: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": number}}


def _template(single: list[Any], pair: list[Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing", "single": single, "pair": pair,
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]} for text, number in tokens.items()},
    }  # fmt: skip
