"""The name by which llama.cpp knows how a text is cut before its parts are merged: ``tokenizer.ggml.pre``.

llama.cpp's converter hashes what a tokenizer makes of one text and looks the hash up, so that it knows the vocabularies
that someone listed. What decides are the patterns, and these stand in the tokenizer.json: pre.toml has them by the
names of llama.cpp's that do the same. A pattern that is not there is refused, since a wrong one degrades a model in
silence.
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
_MOST = 32
"""Steps of a pre_tokenizer; real ones have up to eight."""


def pre_name(document: dict[str, Any]) -> str:
    """The name for a tokenizer.json of byte-level BPE. Raises UnsupportedError where none is known."""
    model = document.get("model")
    whole = isinstance(model, dict) and model.get("ignore_merges") is True
    steps = tuple(_steps(document.get("pre_tokenizer")))
    found = _names().get((whole, steps))
    if found is None:
        said = " + ".join(steps)[:300] or "none"
        raise UnsupportedError(
            f"llama.cpp has no known name for this pre_tokenizer: {said}{', ignore_merges' if whole else ''}",
            hint=f"--meta {KEY}=NAME says it; llama.cpp's src/llama-vocab.cpp lists the names",
        )
    return found


def uses_bytes(pre_tokenizer: object) -> bool:
    """Whether it turns texts into the letters that stand for bytes, as GPT-2's does."""
    return any(step in ("bytes", "gpt2") for step in _steps(pre_tokenizer))


def _steps(node: object) -> Iterator[str]:
    for one in _flat(node)[:_MOST]:
        match one:
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated"} if not one.get("invert"):
                yield _SPLIT + regex.replace("\r", "\\r").replace("\n", "\\n")
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Removed", "invert": True}:
                yield _MATCHES + regex.replace("\r", "\\r").replace("\n", "\\n")
            case {"type": "Digits", "individual_digits": True}:
                yield "digits"
            case {"type": "ByteLevel"}:
                yield "gpt2" if one.get("use_regex", True) else "bytes"
            case {"type": str(name)}:
                yield name
            case _:
                yield "?"


def _flat(node: object) -> list[Any]:
    if not isinstance(node, dict):
        return []
    inner = node.get("pretokenizers")
    return inner if node.get("type") == "Sequence" and isinstance(inner, list) else [node]


@cache
def _names() -> dict[tuple[bool, tuple[str, ...]], str]:
    rows = tomllib.loads((resources.files(__package__) / "pre.toml").read_text("utf-8"))["pre"]
    found = {(row.get("whole", False), tuple(row["steps"])): row["name"] for row in rows}
    gapless = [row for row in rows if row.get("gapless")]
    return found | {
        (row.get("whole", False), tuple(step.replace(_SPLIT, _MATCHES, 1) for step in row["steps"])): row["name"]
        for row in gapless
    }
