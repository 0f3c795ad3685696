"""CRC-32C: published values, and that much is summed as little is."""

from __future__ import annotations

import random

import pytest

from ckptconv.io.crc32c import Crc32c, crc32c


def test_it_is_that_of_the_standard() -> None:
    """RFC 3720, B.4, and the check value of its catalogues."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_parts_continue_each_other() -> None:
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283


EDGES = [0, 1, 7, 8, 511, 513, 8 * 4323, 8 * 5685 - 1, 8 * 5685, 8 * (5685 + 4323) + 3, 300_001]
"""Around what is left to the table, a block, the window, and a piece."""


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("step", [77, 1 << 13, 1 << 18])
def test_much_is_summed_as_little_is(size: int, step: int) -> None:
    data = random.Random(size).randbytes(size)
    state, running = 7, Crc32c(7)
    for start in range(0, size, 1000):
        state = crc32c(data[start : start + 1000], state)  # by the table
    for start in range(0, size, step):
        running.update(memoryview(data)[start : start + step])
    assert running.value == running.value == state == crc32c(memoryview(data), 7)
