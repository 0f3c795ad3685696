"""``tokenizer.ggml.pre``: llama.cpp's name for how a text is split before its parts are merged.

llama.cpp's converter tokenizes a fixed text and looks up the hash of the result, so it knows only vocabularies that
someone has listed. What matters are the patterns in the tokenizer.json: pre.toml maps them to llama.cpp's names for the
same patterns. Unknown patterns are refused, since a wrong name silently degrades a model.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "tokenizer.ggml.pre"
_SPLIT, _MATCHES = "split ", "matches "
_MAX_STEPS = 32
"""Of a pre_tokenizer; real ones have up to eight."""


def pre_name(document: dict[str, Any]) -> str:
    """The name for a tokenizer.json of byte-level BPE. Raises UnsupportedError if there is none."""
    model = document.get("model")
    whole = isinstance(model, dict) and model.get("ignore_merges") is True
    steps = tuple(_steps(document.get("pre_tokenizer")))
    name = _names().get((whole, steps))
    if name is None:
        described = " + ".join(steps)[:300] or "none"
        raise UnsupportedError(
            f"llama.cpp has no known name for this pre_tokenizer: {described}{', ignore_merges' if whole else ''}",
            hint=f"--meta {KEY}=NAME says it; llama.cpp's src/llama-vocab.cpp lists the names",
        )
    return name


def uses_bytes(pre_tokenizer: object) -> bool:
    """Whether the pre_tokenizer spells bytes as letters, as GPT-2's does."""
    return any(step in ("bytes", "gpt2") for step in _steps(pre_tokenizer))


def _steps(node: object) -> Iterator[str]:
    """The steps of a pre_tokenizer, spelled as in pre.toml."""
    for step in _sequence(node)[:_MAX_STEPS]:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated"} if not step.get("invert"):
                yield _SPLIT + regex.replace("\r", "\\r").replace("\n", "\\n")
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Removed", "invert": True}:
                yield _MATCHES + regex.replace("\r", "\\r").replace("\n", "\\n")
            case {"type": "Digits", "individual_digits": True}:
                yield "digits"
            case {"type": "ByteLevel"}:
                yield "gpt2" if step.get("use_regex", True) else "bytes"
            case {"type": str(name)}:
                yield name
            case _:
                yield "?"


def _sequence(node: object) -> list[Any]:
    if not isinstance(node, dict):
        return []
    inner = node.get("pretokenizers")
    return inner if node.get("type") == "Sequence" and isinstance(inner, list) else [node]


@cache
def _rows() -> list[dict[str, Any]]:
    """pre.toml, which explains its keys."""
    found: list[dict[str, Any]] = tomllib.loads((resources.files(__package__) / "pre.toml").read_text("utf-8"))["pre"]
    return found


def row_by_name(name: str) -> dict[str, Any] | None:
    """How texts are split by llama.cpp's name for it: the first row that has it; None if no row does."""
    return next((row for row in _rows() if name == row["name"] or name in row.get("also", ())), None)


def steps_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a row as those of a tokenizer.json's pre_tokenizer."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    found: list[dict[str, Any]] = []
    for step in row["steps"]:
        match step:
            case "digits":
                found.append({"type": "Digits", "individual_digits": True})
            case "gpt2" | "bytes":
                found.append({**byte_level, "use_regex": step == "gpt2"})
            case _:
                pattern = {"Regex": step.removeprefix(_SPLIT)}
                found.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    return found


@cache
def _names() -> dict[tuple[bool, tuple[str, ...]], str]:
    """llama.cpp's names, by ``ignore_merges`` and steps. A gapless pattern may also be stated as what it matches."""
    rows = _rows()
    found = {(row.get("whole", False), tuple(row["steps"])): row["name"] for row in rows}
    gapless = [row for row in rows if row.get("gapless")]
    return found | {
        (row.get("whole", False), tuple(step.replace(_SPLIT, _MATCHES, 1) for step in row["steps"])): row["name"]
        for row in gapless
    }
