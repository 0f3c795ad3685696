"""Varints: up to 64 bits, none past the end; bytes spelled out by hand."""

from __future__ import annotations

import pytest

from ckptconv.io.varint import varint

READ = {
    b"\x00": (0, 1), b"\x7f": (127, 1), b"\x80\x01": (128, 2), b"\xac\x02": (300, 2), b"\x81\x00": (1, 2),
    b"\xff" * 9 + b"\x01": (2**64 - 1, 10),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), READ.items())
def test_a_number_and_where_it_ends(data: bytes, expected: tuple[int, int]) -> None:
    assert varint(data + b"\x05", 0) == expected
    assert varint(memoryview(b"\x01" + data), 1) == (expected[0], expected[1] + 1)


@pytest.mark.parametrize("data", [b"\x80" * 9 + b"\x02", b"\xff" * 9 + b"\x7f", b"\x80" * 10 + b"\x00", b"\xff" * 100])
def test_more_than_64_bits_are_refused(data: bytes) -> None:
    with pytest.raises(OverflowError):
        varint(data, 0)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9])
def test_a_number_that_is_cut_short_is_none(data: bytes) -> None:
    with pytest.raises(IndexError):
        varint(data, 0)
