"""CRC-32C: published values, and that much is summed as little is."""

from __future__ import annotations

import random

import pytest

from ckptconv.io import crc32c as module
from ckptconv.io.crc32c import crc32c


def test_it_is_that_of_the_standard() -> None:
    """RFC 3720, B.4, and the check value of its catalogues."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_parts_continue_each_other() -> None:
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283


@pytest.mark.parametrize("size", [1024, 5000, 99_999])
def test_much_is_summed_as_little_is(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(size).randbytes(size)
    expected = crc32c(data), crc32c(data, 7)
    monkeypatch.setattr(module, "MANY", 1024)
    assert (crc32c(data), crc32c(memoryview(data), 7)) == expected
