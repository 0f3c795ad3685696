r"""The header of a numpy array. A ``.npy`` is

    "\x93NUMPY"          6 bytes
    major, minor         1 byte each
    length               of the header: 2 bytes, little-endian; 4 bytes from version 2.0 on
    header               a Python dict as text, Latin-1 (UTF-8 in version 3.0), spaces, and a newline:
                         {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
    data                 the elements, in C or Fortran order

An ``.npz`` is a zip archive with a ``NAME.npy`` for each array, and optionally our record, ``ckptconv.json``, which
numpy.load lists and returns as bytes. Source: numpy's ``numpy/lib/format.py``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core.arrays import NUMPY_DESCR
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.limits import MAX_DIM, MAX_NPY_HEADER, MAX_RANK, is_size

if TYPE_CHECKING:
    from collections.abc import Callable

SUFFIX = ".npy"
RECORD = "ckptconv.json"
MAGIC = b"\x93NUMPY"
ALIGNMENT = 64
FIRST = 128
"""The size of the first read; nearly all headers are shorter."""

_DTYPES = {descr[1:]: dtype for dtype, descr in NUMPY_DESCR.items()} | {"f1": DType.F8_E5M2}
"""By numpy's code, without the byte order. The code f1 is ml_dtypes': its other one-byte types are saved as V1."""

_REFUSED = {
    "O": ("Python objects, which are a pickle", "make plain arrays of what is in it, and save those"),
    "U": ("text of no length", "leave it out"),
    "S": ("text of no length", "leave it out"),
    "M": ("dates", "leave it out, or save it as int64"),
    "m": ("times", "leave it out, or save it as int64"),
    "V": ("bytes of no type", "numpy.load it, .view() it as its type, and save that as a type that numpy has"),
    "g": ("floats of a width that only some machines have", "save it .astype('float64')"),
}


_TEXT = re.compile(r"(?P<order>[<>=|])?(?P<kind>[US])(?P<size>[1-9]\d{0,8})")


@dataclass(frozen=True, slots=True)
class Npy:
    """The parsed header of an array of numbers. `raw` is all bytes before the data."""

    info: TensorInfo
    fortran: bool
    swapped: bool
    raw: bytes

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return self.info.nbytes


@dataclass(frozen=True, slots=True)
class Text:
    """The parsed header of an array of texts, which is not a tensor.

    descr:    numpy's code for the type, with the byte order.
    itemsize: the bytes of each text: UTF-32 (``U``), or in no encoding (``S``), padded with zeros.
    raw:      all bytes before the data.
    """

    descr: str
    itemsize: int
    shape: tuple[int, ...]
    fortran: bool
    raw: bytes

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return prod(self.shape) * self.itemsize


_BLANKS = " \t\n\r\f"
"""The whitespace of Python's syntax; str.strip would strip more."""

SAVE_AGAIN = "save it again with numpy"


def _bad(what: str, why: str) -> CorruptFileError:
    return CorruptFileError(f"{what} is damaged: {why}", hint=SAVE_AGAIN)


def read_header(
    read_start: Callable[[int], bytes], what: str, cache: dict[bytes, Npy | Text] | None = None
) -> Npy | Text:
    """Read the header of an array. Costs one small read, rarely two.

    read_start: reads a number of bytes from the start of the array's file, or all if it has fewer.
    what:       the array, for errors.
    cache:      parsed headers by their bytes, to which this one is added.

    Raises CorruptFileError, LimitError, and UnsupportedError for arrays of neither numbers nor texts.
    """
    start = read_start(FIRST)
    if start[:6] != MAGIC or len(start) < 12:
        raise _bad(what, "it does not start as a .npy file")
    version = start[6], start[7]
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise UnsupportedError(
            f"{what} has version {version[0]}.{version[1]} of the npy format; known are 1.0, 2.0 and 3.0",
            hint=SAVE_AGAIN,
        )
    width = 2 if version == (1, 0) else 4
    end = 8 + width + int.from_bytes(start[8 : 8 + width], "little")
    if end > MAX_NPY_HEADER:
        raise LimitError(f"{what} has a header of {end:,} bytes; the limit is {MAX_NPY_HEADER:,}")
    raw = (start if end <= len(start) else read_start(end))[:end]
    if len(raw) < end:
        raise _bad(what, "its header is cut short")
    cache = {} if cache is None else cache
    if raw not in cache:
        text = raw[8 + width :].decode("latin-1" if version < (3, 0) else "utf-8", "replace")
        cache[raw] = _parse(what, raw, text)
    return cache[raw]


def _parse(what: str, raw: bytes, text: str) -> Npy | Text:
    try:
        header = ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text).strip(_BLANKS))  # Python 2 wrote 2L
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise _bad(what, "its header is not a Python dict") from error
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise _bad(what, "its header has other keys than descr, fortran_order and shape")
    shape, fortran = header["shape"], header["fortran_order"]
    if type(shape) is not tuple or not all(map(is_size, shape)):
        raise _bad(what, "its shape is not a tuple of sizes")
    if type(fortran) is not bool:
        raise _bad(what, "its fortran_order is neither True nor False")
    if len(shape) > MAX_RANK:
        raise LimitError(f"{what} has {len(shape)} dimensions; the limit is {MAX_RANK}")
    if prod(shape) > MAX_DIM:
        raise _bad(what, "its shape has more elements than a file can")
    if isinstance(header["descr"], str) and (kind := _TEXT.fullmatch(header["descr"])):
        order = "|" if kind["kind"] == "S" else ">" if kind["order"] == ">" else "<"
        size = int(kind["size"]) * (4 if kind["kind"] == "U" else 1)
        return Text(f"{order}{kind['kind']}{kind['size']}", size, shape, fortran, raw)
    dtype, swapped = _dtype(what, header["descr"])
    return Npy(TensorInfo.of(dtype, shape), fortran, swapped, raw)


def _dtype(what: str, descr: Any) -> tuple[DType, bool]:
    """The dtype, and whether it is big-endian."""
    if isinstance(descr, list):
        raise UnsupportedError(f"{what} has records with fields, no numbers", hint="save each field as its own array")
    if not isinstance(descr, str) or not 0 < len(descr) <= 32:
        raise _bad(what, "its descr is not a name of a type")
    order, word = (descr[0], descr[1:]) if descr[0] in "<>=|" else ("<", descr)
    if word not in _DTYPES:
        order, word = _canonical(what, descr)
    if word in _DTYPES:
        return _DTYPES[word], order == ">" and _DTYPES[word].bits > 8
    kind = "g" if word in ("f12", "f16", "c24", "c32") else word[0]
    held, hint = _REFUSED.get(kind, ("elements of a type that is not known", "save it as a type that numpy names"))
    raise UnsupportedError(f"{what} holds {held} ({descr})", hint=hint)


def _canonical(what: str, descr: str) -> tuple[str, str]:
    """The byte order and code for another spelling of a type, such as ``?``, ``>d``, ``float32``; numpy knows them."""
    import numpy as np

    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, SyntaxError) as error:
        raise _bad(what, "its descr is not a name of a type") from error
    if dtype.fields or dtype.subdtype or not dtype.str[1:]:
        raise UnsupportedError(f"{what} has records with fields, no numbers", hint="save each field as its own array")
    return dtype.str[0], dtype.str[1:]


@lru_cache(maxsize=1024)
def encode_header(info: TensorInfo) -> bytes:
    """The bytes before the data, padded to a multiple of 64 as numpy does. For at most 32 dimensions."""
    descr = NUMPY_DESCR[info.dtype]
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {info.shape!r}, }}".encode("ascii")
    length = len(text) + 1 + -(len(text) + 11) % ALIGNMENT
    return MAGIC + b"\1\0" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"
