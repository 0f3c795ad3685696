"""Tensors cut into chunks: which sets of boxes tile a shape, and what is read through them, with numpy as the judge."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.io import mosaic
from ckptconv.io.mosaic import Mosaic, Tile, check_tiling

Box = tuple[tuple[int, ...], tuple[int, ...]]

PINWHEEL: list[Box] = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
"""Five boxes that tile three by three, and that no straight cut takes apart."""


def cut(draw: st.DrawFn, begin: tuple[int, ...], size: tuple[int, ...], depth: int) -> list[Box]:
    axis = draw(st.integers(-1, len(size) - 1)) if depth else -1
    if axis < 0 or size[axis] < 2:
        return [(begin, size)]
    at = draw(st.integers(1, size[axis] - 1))
    sizes = [(*size[:axis], n, *size[axis + 1 :]) for n in (at, size[axis] - at)]
    second = (*begin[:axis], begin[axis] + at, *begin[axis + 1 :])
    return cut(draw, begin, sizes[0], depth - 1) + cut(draw, second, sizes[1], depth - 1)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    if draw(st.booleans()) and draw(st.booleans()):
        return (3, 3), draw(st.permutations(PINWHEEL))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=0, max_size=3)))
    return shape, draw(st.permutations(cut(draw, (0,) * len(shape), shape, 4)))


@st.composite
def disturbed(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A tiling of which a box is gone, is there twice, or begins or ends elsewhere."""
    shape, boxes = draw(tilings())
    which = draw(st.integers(0, len(boxes) - 1))
    begin, size = boxes[which]
    kind = draw(st.sampled_from(["gone", "twice", "begin", "size"] if shape else ["gone", "twice"]))
    if kind == "gone":
        return shape, boxes[:which] + boxes[which + 1 :]
    if kind == "twice":
        return shape, [*boxes, boxes[which]]
    axis, step = draw(st.integers(0, len(shape) - 1)), draw(st.sampled_from([-1, 1]))
    moved = tuple(n + step * (kind == "begin" and i == axis) for i, n in enumerate(begin))
    grown = tuple(n + step * (kind == "size" and i == axis) for i, n in enumerate(size))
    return shape, [*boxes[:which], (moved, grown), *boxes[which + 1 :]]


def is_exact(shape: tuple[int, ...], boxes: list[Box]) -> bool:
    """Whether every element is in one box and no box reaches outside: counted on a margin of 2."""
    counts = np.zeros([n + 4 for n in shape], dtype=int)
    for begin, size in boxes:
        counts[tuple(slice(b + 2, b + 2 + n) for b, n in zip(begin, size, strict=True))] += 1
    inside = counts[tuple(slice(2, 2 + n) for n in shape)]
    return bool((inside == 1).all()) and counts.sum() == inside.sum()


@settings(max_examples=250)
@given(tilings() | disturbed())
def test_boxes_are_taken_if_and_only_if_each_element_is_in_one(made: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, boxes = made
    if is_exact(shape, boxes):
        check_tiling(shape, boxes)
        return
    with pytest.raises(CorruptFileError) as refused:
        check_tiling(shape, boxes)
    assert refused.value.hint


@settings(max_examples=100)
@given(tilings(), st.data())
def test_any_range_is_read_across_the_boxes(made: tuple[tuple[int, ...], list[Box]], data: st.DataObject) -> None:
    shape, boxes = made
    values = np.arange(prod(shape), dtype=np.int16).reshape(shape)
    tiles = []
    for begin, size in boxes:
        part = values[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]
        tiles.append(Tile(begin, size, in_memory(TensorInfo.of(DType.I16, size), part.tobytes())))
    start = data.draw(st.integers(0, values.nbytes))
    stop = data.draw(st.integers(start, values.nbytes))
    assert bytes(Mosaic(shape, 2, tiles)(start, stop)) == values.tobytes()[start:stop]


@pytest.mark.parametrize("box", [((0,), (3, 3)), ((0, 0), (3,)), ((0, 0, 0), (3, 3, 1))])
def test_a_box_of_another_rank_is_refused(box: Box) -> None:
    with pytest.raises(CorruptFileError, match="dimensions, and the tensor 2"):
        check_tiling((3, 3), [box])


def test_boxes_without_elements_are_skipped_and_a_shape_without_any_needs_none() -> None:
    check_tiling((2, 3), [((0, 0), (2, 3)), ((1, 1), (0, 2))])
    check_tiling((0, 3), [])


def test_so_many_boxes_that_no_cut_takes_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaic, "MAX_COMPARED", 5)
    check_tiling((3, 3), PINWHEEL)
    monkeypatch.setattr(mosaic, "MAX_COMPARED", 4)
    with pytest.raises(LimitError, match="no order that a sharding has"):
        check_tiling((3, 3), PINWHEEL)
