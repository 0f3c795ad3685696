"""Nothing that a terminal might obey is printed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckptconv.cli.output import printable


@given(st.text(st.characters()))
def test_printable_text_is_printable_and_plain_text_is_kept(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_control_characters_are_spelled_like_repr() -> None:
    assert printable("a\x1b\n\t\x00\x9b\u202e\u2028\udc80\u200b ü漢") == (
        r"a\x1b\n\t\x00\x9b\u202e\u2028\udc80\u200b ü漢"
    )
