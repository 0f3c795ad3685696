"""Texts that others evaluate are told whatever release of Python they have, and however deep their stack is."""

from __future__ import annotations

import pytest

from ckptconv.formats.code import monai
from ckptconv.formats.code.evaluated import runs
from ckptconv.testing.damage import limited_memory
from tests.support.stopwatch import at_most


def deeper(text: str, frames: int) -> bool:
    return deeper(text, frames - 1) if frames else runs(text)


def test_what_python_evaluates_is_not_too_deep_for_us() -> None:
    for depth in range(2_000, 3_200, 50):
        text = "-" * depth + "len('ab')"
        try:
            eval(text)
        except (RecursionError, MemoryError, SyntaxError):
            continue
        assert deeper(text, 60)


@pytest.mark.parametrize("text", ['f"{__import__("os").system("x")}"', 'rf"{f("x")}"', "t'{f('x')}'"])
def test_strings_with_code_are_recognised_in_any_release_of_python(text: str) -> None:
    assert runs(text)
    assert monai.runs(f"${text}")


@pytest.mark.parametrize("text", ["{0: 'person (1)'}", "{0: person (1) x}", "[(512, 10, 5)] + [(512, 3, 2)] * 4"])
def test_data_and_words_are_not(text: str) -> None:
    assert not runs(text)


def test_a_text_of_half_a_million_numbers_is_not_made_a_tree() -> None:
    with at_most(1), limited_memory(100 << 20):
        assert runs("f(1) + [" + "0," * 500_000 + "]")
