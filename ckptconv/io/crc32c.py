"""CRC-32C (Castagnoli's polynomial), which TensorFlow and TensorStore record, in Python and, for much, in numpy.

Python alone does some 10 MB a second; from `MANY` bytes on, lanes of equal length are done side by side, and joined.
"""

from __future__ import annotations

MANY = 1 << 20
_LANES = 1024
_POLYNOMIAL = 0x82F63B78
"""Its bits the other way round."""


def _rows() -> list[int]:
    """The CRC-32C of each byte."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _rows()


def crc32c(data: bytes | memoryview, value: int = 0) -> int:
    """The CRC-32C, continuing from `value`."""
    state = value ^ 0xFFFFFFFF
    if len(data) >= MANY:
        length = len(data) // _LANES
        state, data = _many(data, state, length), data[_LANES * length :]
    for byte in data:
        state = _TABLE[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ 0xFFFFFFFF


def _many(data: bytes | memoryview, state: int, length: int) -> int:
    """The state after `_LANES` runs of `length` bytes."""
    import numpy as np

    table = np.array(_TABLE, np.uint32)
    lanes = np.frombuffer(data, np.uint8, _LANES * length).reshape(_LANES, length)
    crcs = np.zeros(_LANES, np.uint32)
    for column in np.ascontiguousarray(lanes.T):
        crcs = table[(crcs ^ column) & 0xFF] ^ crcs >> 8
    over = _zeros(length)
    for crc in crcs.tolist():
        state = _product(over, state) ^ crc
    return state


def _zeros(length: int) -> list[int]:
    """What `length` bytes of zeros do to each bit of a state: a matrix, by repeated squaring."""
    result = [1 << bit for bit in range(32)]
    step = [_TABLE[bit & 0xFF] ^ bit >> 8 for bit in result]
    while length:
        if length & 1:
            result = [_product(step, row) for row in result]
        step = [_product(step, row) for row in step]
        length >>= 1
    return result


def _product(matrix: list[int], vector: int) -> int:
    found = 0
    while vector:
        low = vector & -vector
        found ^= matrix[low.bit_length() - 1]
        vector ^= low
    return found
