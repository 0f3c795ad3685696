"""joblib's files, which have arrays between their opcodes, with a call somewhere around these; all run in joblib.load."""

from __future__ import annotations

import bz2
import lzma
import zlib

from tests.hostile.asked import ARRAY as PLAIN
from tests.hostile.asked import U1, of
from tests.hostile.cases import CODES, SYSTEM, Case, call, named
from tests.hostile.implicit import new, state
from tests.support.craft import text

OBJECT = (
    call("numpy", "dtype", text("O8"), b"\x89", b"\x88")
    + b"(K\3"
    + text("|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
)
FIVE = b"\0\1\2\3\4"
PADDING = b"\1\xff"


def wrapper(dtype: bytes = U1, size: int = 5, alignment: bytes = b"K\x10", made: bytes | None = None) -> bytes:
    """What stands before an array, as opcodes."""
    said = state(
        subclass=named("numpy", "ndarray"), shape=b"K" + bytes([size, 0x85]), order=text("C"), dtype=dtype,
        allow_mmap=b"\x89", numpy_array_alignment_bytes=alignment,
    )  # fmt: skip
    return of(made or new("joblib.numpy_pickle", "NumpyArrayWrapper"), said)


ARRAY = wrapper() + PADDING + FIVE
OLD = wrapper(alignment=b"N")


def file(*values: bytes) -> bytes:
    """A dict of these."""
    return b"\x80\x04}(" + b"".join(text(f"k{at}") + value for at, value in enumerate(values)) + b"u."


def objects(value: bytes) -> bytes:
    """An array of one object, which is a pickle behind its wrapper."""
    shell = call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"), b"K\0\x85", b"C\1b")
    return wrapper(OBJECT, 1) + b"\x80\x04" + of(shell, b"(K\1K\1\x85" + OBJECT + b"\x89(" + value + b"lt") + b"."


def framed() -> bytes:
    """A frame that goes on behind a wrapper: joblib reads the array behind the frame, and goes on in it."""
    code = wrapper(size=len(SYSTEM) + 1)
    rest = SYSTEM + b"0"
    frame = b"\x95" + len(code + rest).to_bytes(8, "little") + code + rest
    return b"\x80\x04}" + text("k") + frame + PADDING + bytes(len(rest)) + b"s."


MIXED = file(ARRAY, SYSTEM, ARRAY)
CALLS: dict[str, bytes] = {
    "a call before joblib's array": file(SYSTEM, ARRAY),
    "a call between joblib's arrays": MIXED,
    "a call behind joblib's array": file(ARRAY, SYSTEM),
    "a call that is thrown away behind joblib's array": file(ARRAY + SYSTEM + b"0"),
    "a call in joblib's array of objects": file(ARRAY, objects(SYSTEM)),
    "a call behind joblib's array of objects": file(ARRAY, objects(b"N"), SYSTEM),
    "a call behind an array of joblib's of before 1.2": file(OLD + FIVE, SYSTEM),
    "a call behind an array without elements": file(wrapper(size=0) + PADDING, SYSTEM),
    "a call in a compressed file of joblib's": zlib.compress(MIXED),
    "a call in a file of joblib's, by bzip2": bz2.compress(MIXED),
    "a call in a file of joblib's, by xz": lzma.compress(MIXED),
    "a call in a file of joblib's, by LZMA": lzma.compress(MIXED, lzma.FORMAT_ALONE),
    "a call in a compressed pickle": zlib.compress(file(PLAIN, SYSTEM)),
}
REFUSED: dict[str, tuple[str, bytes]] = {
    "a frame that goes on behind joblib's wrapper": ("joblib", framed()),
    "joblib's array that pickle takes for a call": ("pickle", file(wrapper(alignment=b"N", size=len(SYSTEM) + 3) + b"0" + SYSTEM + b"N0")),
    "joblib's wrapper by another name": ("joblib", file(
        wrapper(made=new("joblib._store_backends", "numpy_pickle.NumpyArrayWrapper")) + PADDING + FIVE, SYSTEM)),
    "joblib's wrapper with other padding": ("joblib", file(wrapper() + b"\1N" + FIVE, SYSTEM)),
}  # fmt: skip


def cases() -> list[Case]:
    """All of them."""
    code = CODES["would run code"]
    made = [
        Case(name, "of loaders", data, "would run code", code, False, True, ".joblib", loader="joblib")
        for name, data in CALLS.items()
    ]
    return made + [
        Case(name, "of loaders", data, hostile=True, suffix=".joblib", loader=loader)
        for name, (loader, data) in REFUSED.items()
    ]
