"""What a header says of a tensor's type and shape: taken as it is, or refused under the name that it goes by."""

from __future__ import annotations

import pytest

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.limits import MAX_DIM

DTYPES = {1: DType.F32, 2: DType.U4}


def info(code: int, shape: list[int]) -> TensorInfo:
    return header_info("the array 7", code, shape, dtypes=DTYPES, library="MXNet 1.9", bad=CorruptFileError)


def test_type_and_shape_make_a_header() -> None:
    assert info(1, [2, 3]) == TensorInfo(DType.F32, (2, 3), 24)
    assert info(2, [0, MAX_DIM]) == TensorInfo(DType.U4, (0, MAX_DIM), 0)


@pytest.mark.parametrize(
    ("code", "shape", "error", "message"),
    [
        (9, [2], UnsupportedError, "the array 7 has the element type 9, which MXNet 1.9 does not know"),
        (1, [2, -1, -1], CorruptFileError, r"the array 7 has the shape \[2, -1, -1\]"),
        (1, [0, MAX_DIM + 1], CorruptFileError, "the array 7 has the shape"),
        (1, [MAX_DIM // 32 + 1], CorruptFileError, "the array 7 has the shape"),
    ],
)
def test_what_cannot_be_is_refused(code: int, shape: list[int], error: type[CkptconvError], message: str) -> None:
    with pytest.raises(error, match=message):
        info(code, shape)
