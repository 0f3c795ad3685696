"""Metadata of strangers: whatever an entry or a tensor is, it makes files, or an error that says what is wrong."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ckptconv.errors import CkptconvError
from ckptconv.formats.gguf.to_hub.files import restore_files
from tests.formats.gguf.hub.test_hyperparameters import CASES
from tests.formats.gguf.hub.test_tokenizer import byte_level, saved
from tests.formats.gguf.to_hub.test_config import entries, tensors, zeros
from tests.formats.gguf.to_hub.test_tokenizer import entries as tokenizer_entries
from tests.formats.gguf.to_hub.test_tokenizer import sentencepiece

if TYPE_CHECKING:
    from pathlib import Path

ODD: tuple[Any, ...] = (
    None, "x", "a b", -1, 0, 1, 1 << 31, (1 << 64) - 1, 1e300, math.nan, math.inf, True, [], [1, 2], ["a"], [None],
    [math.nan], b"\x00\xff", b"", {"x": 1}, "\udcff", ["\udcff"],
)  # fmt: skip
SHAPES = ((), (0,), (3,), (2, 2), (1, 2, 3))
TURNS = 2000


def test_any_metadata_makes_files_or_an_error(tmp_path: Path) -> None:
    chance = random.Random(0)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "x"}
    tokenizers = []
    for name, made in (("bytes", byte_level()), ("pieces", sentencepiece(prefix=True))):
        folder = saved(tmp_path / name, tokenizer_json=made.to_str(), tokenizer_config_json=config)
        tokenizers.append(tokenizer_entries(folder, 300))
    models = {case: tensors(case) for case in CASES}
    written = 0
    for _ in range(TURNS):
        case = chance.choice([*models])
        kind = chance.choice([{}, {"tokenizer.ggml.model": chance.choice(["t5", "bert", "llama", "gpt2"])}])
        said = chance.choice(tokenizers) | entries(case) | kind
        parts = dict(models[case])
        for _ in range(chance.randrange(1, 3)):
            change(said, parts, chance)
        with suppress(CkptconvError):
            written += len(restore_files(said, parts).contents("float32")) > 0
    assert TURNS / 10 < written < TURNS


def change(said: dict[Any, Any], parts: dict[str, Any], chance: random.Random) -> None:
    """Change an entry, an item of it, or a tensor; or take it away."""
    key, name = chance.choice([*said]), chance.choice([*parts])
    value = said[key]
    match chance.randrange(6):
        case 0:
            del said[key]
        case 1 if isinstance(value, list) and value:
            at = chance.randrange(len(value))
            said[key] = [*value[:at], chance.choice(ODD), *value[at + 1 :]]
        case 2:
            del parts[name]
        case 3:
            parts[name] = zeros(*chance.choice(SHAPES))
        case _:
            said[key] = chance.choice(ODD)
