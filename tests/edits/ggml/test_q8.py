"""Q8_0 beside the gguf package, whose bits it has: all ways to round, NaN and infinities, small and large numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from ckptconv.edits.ggml.q8 import BELOW_A_HALF, q8_0

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array


def package(values: Array) -> Array:
    blocks: Array = quantize(values.reshape(1, -1), GGMLQuantizationType.Q8_0)
    return blocks.reshape(-1, 34)


@pytest.mark.parametrize("exponent", range(-46, 39, 4))
def test_the_bits_are_the_packages(exponent: int) -> None:
    choose = np.random.default_rng(exponent + 46)
    with np.errstate(over="ignore"):
        values = (choose.standard_normal(32 * 500) * 10.0**exponent).astype(np.float32)
    values[choose.random(values.size) < 0.1] = 0
    values[320:352] = 0
    values[640:643] = [np.nan, np.inf, -np.inf]
    values[700], values[750], values[800] = np.inf, -np.inf, np.nan
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(q8_0(values), package(values))


def test_halves_are_rounded_away_from_zero() -> None:
    halves = np.arange(-127, 127.5, 0.5, dtype=np.float32)
    near = np.stack([np.nextafter(halves, np.float32(-200)), halves, np.nextafter(halves, np.float32(200))])
    values = np.clip(near, -127, 127).reshape(-1)
    values = np.pad(values, (0, -values.size % 31))
    blocks = np.insert(values.reshape(-1, 31), 0, 127, axis=1)  # whose scale is 1
    codes = q8_0(blocks)[:, 3:].view(np.int8).reshape(-1)
    np.testing.assert_array_equal(codes, np.sign(values) * np.floor(np.abs(values.astype(np.float64)) + 0.5))
    np.testing.assert_array_equal(q8_0(blocks), package(blocks))


def test_what_is_added_is_the_largest_number_below_a_half() -> None:
    assert np.float32(BELOW_A_HALF) == np.nextafter(np.float32(0.5), np.float32(0))
