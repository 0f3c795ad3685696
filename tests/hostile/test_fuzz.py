"""The fuzzer itself: a few hundred mutants of every target, and that it sees what it looks for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ckptconv.formats import registry
from tests.hostile import fuzz
from tests.hostile.fuzz import TARGETS, Target

if TYPE_CHECKING:
    import random
    from pathlib import Path


def test_every_built_in_format_that_parses_bytes_of_its_own_is_a_target() -> None:
    names = {target.name for target in TARGETS} - {"machine", "pickle in an archive"} | {"gguf-split"}  # gguf's parser
    files = {one.name for one in registry.BUILTIN if "file" in one.takes and not one.main}
    assert names == files | {"deepspeed", "megatron", "orbax", "safetensors-slices", "tensordict", "folder"}


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_a_few_hundred_mutants_are_refused_or_read(target: Target, tmp_path: Path) -> None:
    score = fuzz.fuzz(target, 60, tmp_path, seed=1, most=300)
    assert not score.findings, score.findings[0]
    assert score.executions == 300
    assert score.read > 0


def crash(path: Path, data: bytes, chance: random.Random) -> None:
    raise KeyError("a foreign exception")


def hang(path: Path, data: bytes, chance: random.Random) -> None:
    end = time.process_time() + 30
    while time.process_time() < end:
        pass


def hoard(path: Path, data: bytes, chance: random.Random) -> None:
    bytearray(1 << 31)


@pytest.mark.parametrize(
    ("run", "word"),
    [(crash, "KeyError"), (hang, "TooSlowError"), (hoard, "MemoryError")],
    ids=["crash", "hang", "hoard"],
)
def test_a_reader_that_crashes_hangs_or_hoards_is_found(run: object, word: str, tmp_path: Path) -> None:
    target = Target("bad", run, ("onnx",), [b"x"])  # type: ignore[arg-type]
    score = fuzz.fuzz(target, 60, tmp_path, seed=1, most=1)
    assert word in score.findings[0]
    assert list(tmp_path.glob("finding-bad-*"))
