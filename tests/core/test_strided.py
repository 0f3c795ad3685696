"""Arithmetic of strided views against numpy's and torch's own."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.core.dtypes import BLOCKS, DTYPES, PLAIN, DType
from ckptconv.core.strided import boxes, contiguous_strides, extent, is_contiguous, memory_order

SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)


@given(SHAPES)
def test_contiguous_strides_are_torchs(shape: tuple[int, ...]) -> None:
    assert contiguous_strides(shape) == torch.empty(shape).stride()


@given(SHAPES, st.lists(st.integers(0, 20), min_size=5, max_size=5))
def test_a_view_is_contiguous_where_torch_says_so(shape: tuple[int, ...], strides: list[int]) -> None:
    strides = strides[: len(shape)]
    view = torch.as_strided(torch.empty(2000), shape, strides)
    assert is_contiguous(shape, strides) == view.is_contiguous()


@given(SHAPES, st.lists(st.integers(0, 20), min_size=5, max_size=5))
def test_the_extent_is_the_distance_from_the_first_element_to_the_last(
    shape: tuple[int, ...], strides: list[int]
) -> None:
    view = torch.as_strided(torch.arange(2000), shape, strides[: len(shape)])
    assert extent(shape, strides[: len(shape)]) == (int(view.max()) + 1 if view.numel() else 0)


@given(SHAPES, st.data())
def test_boxes_cover_a_range_once_and_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    total = prod(shape)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    numbers = np.arange(total).reshape(shape)
    found: list[int] = []
    count = 0
    for begin, size in boxes(shape, start, stop):
        part = numbers[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]
        assert part.shape == tuple(size)
        found += part.ravel().tolist()
        count += 1
    assert found == list(range(start, stop))
    assert count <= max(1, 2 * len(shape) - 1)


@given(st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_memory_order_undoes_a_permutation(order: list[int], shape: list[int]) -> None:
    view = torch.arange(prod(shape)).reshape(shape).permute(order)
    found = memory_order(tuple(view.shape), view.stride())
    assert found is not None
    assert view.permute(found).is_contiguous()


def test_a_view_with_gaps_or_overlaps_has_no_memory_order() -> None:
    assert memory_order((3,), (2,)) is None
    assert memory_order((3, 2), (0, 1)) is None


@pytest.mark.parametrize("dtype", PLAIN.values(), ids=PLAIN.keys())
def test_an_element_types_size_is_rounded_up_to_bytes(dtype: DType) -> None:
    assert dtype.nbytes(0) == 0
    assert dtype.nbytes(8) == dtype.bits
    assert dtype.nbytes(1) == max(1, dtype.bits // 8)
    assert DTYPES[str(dtype)] is dtype


@pytest.mark.parametrize("dtype", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_types_size_is_that_of_its_blocks_as_ggml_has_it(dtype: DType) -> None:
    elements, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype.name]]
    assert (dtype.block, dtype.nbytes(0), dtype.nbytes(3 * elements)) == (elements, 0, 3 * nbytes)
    assert DTYPES[str(dtype)] is dtype


WITHOUT_NUMPY = {"C32", "BC32", "QI32", "QI8", "QU8", "QU4", "QU2"}


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in WITHOUT_NUMPY])
def test_every_element_type_becomes_a_numpy_array(name: str) -> None:
    from ckptconv.core.arrays import from_bytes

    dtype = DTYPES[name]
    data = bytes(i % 2 if name == "BOOL" else (i * 37) % 251 for i in range(dtype.nbytes(8)))
    array = from_bytes(memoryview(data), dtype, (2, 4))
    assert array.shape == (2, 4)
    if dtype.bits < 8:
        wide = int.from_bytes(data, "little")
        codes = [(wide >> (i * dtype.bits)) & ((1 << dtype.bits) - 1) for i in range(8)]
        assert (array.view(np.uint8).ravel() & ((1 << dtype.bits) - 1)).tolist() == codes
    else:
        assert array.tobytes() == data
