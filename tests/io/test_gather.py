"""Strided views gathered from a file, with numpy as the judge, however little is read at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.core.dtypes import DType
from ckptconv.core.strided import extent
from ckptconv.core.tensor import ByteSpan, Placement, Storage
from ckptconv.io import gather
from ckptconv.io.gather import Gather
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

COUNT, BEFORE = 5000, 3
"""Numbers in the file, and bytes before them."""


@st.composite
def views(draw: st.DrawFn) -> tuple[int, tuple[int, ...], tuple[int, ...], int, int]:
    """Offset, shape and strides of a view inside of the numbers, and a range of its elements."""
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    strides = tuple(draw(st.integers(0, 200)) for _ in shape)
    offset = draw(st.integers(0, COUNT - extent(shape, strides)))
    total = int(np.prod(shape, dtype=int))
    start = draw(st.integers(0, total))
    return offset, shape, strides, start, draw(st.integers(start, total))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("scratch", "gap"), [(4 << 20, 16 << 10), (256, 64), (64, 16), (8, 0)])
def test_a_range_of_a_view_is_what_numpy_has_there(
    swapped: bool, scratch: int, gap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "SCRATCH", scratch)
    monkeypatch.setattr(gather, "CHEAP_GAP", gap)
    numbers = np.arange(COUNT, dtype=np.int32) * 65_537
    (tmp_path / "x").write_bytes(bytes(BEFORE) + numbers.astype(">i4" if swapped else "<i4").tobytes() + b"after")

    @settings(max_examples=60)
    @given(views())
    def holds(view: tuple[int, tuple[int, ...], tuple[int, ...], int, int]) -> None:
        offset, shape, strides, start, stop = view
        storage = Storage("s", ByteSpan(source, BEFORE, 4 * COUNT), 4, COUNT, DType.I32, swapped=swapped)
        found = Gather(Placement(storage, offset, shape, strides), DType.I32)(4 * start, 4 * stop)
        steps = tuple(4 * stride for stride in strides)
        expected = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps).ravel()[start:stop]
        assert bytes(found) == expected.tobytes()
        assert memoryview(found).obj.nbytes == len(found)  # type: ignore[attr-defined]  # no more is held than that

    with Source(tmp_path / "x") as source:
        holds()
