"""The types of GGUF's metadata values, and how values are encoded.

Types are named ``uint8 … int64 float32 float64 bool string``; arrays ``float32[]``, arrays of arrays ``int32[][]``. An
array of ``uint8`` is `bytes`, any other array a list. Strings are UTF-8; bytes that are not become lone surrogates,
which are written as those bytes again.
"""

from __future__ import annotations

import sys
from array import array
from struct import pack
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode

TYPES: dict[int, str] = dict(
    enumerate(
        ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array",
         "uint64", "int64", "float64")
    )
)  # fmt: skip
"""Types by the numbers of ``gguf_metadata_value_type``."""

CODES: dict[str, int] = {name: code for code, name in TYPES.items()}

FORMAT: dict[str, str] = {
    "uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "uint64": "Q", "int64": "q",
    "float32": "f", "float64": "d",
}  # fmt: skip
"""The format characters of `struct` and `array`."""

WIDTH: dict[str, int] = {name: array(code).itemsize for name, code in FORMAT.items()} | {"bool": 1}

RANGES: dict[str, range] = {
    name: range(-(1 << (8 * WIDTH[name] - 1)), 1 << (8 * WIDTH[name] - 1)) if name[0] == "i"
    else range(1 << (8 * WIDTH[name]))
    for name in FORMAT if name[0] != "f"
}  # fmt: skip

F32_LIMIT = 3.4028235677973366e38
"""Doubles below this limit round to a finite F32."""

Typed = tuple[str, "MetaNode"]
"""The name of a type, and a value of that type."""


def default_type(value: MetaNode) -> str | None:
    """The type for a value that comes without one; None if GGUF has no type for it.

    The types are those that llama.cpp expects: ``uint32`` for sizes, ``float32`` for fractions, ``int32[]`` for lists
    of integers.
    """
    if type(value) is int:
        return next((name for name in ("uint32", "int32", "uint64", "int64") if value in RANGES[name]), None)
    if type(value) is bytes:
        return "uint8[]"
    if type(value) is list:
        names = ("int32", "uint32", "int64", "uint64", "float32", "float64", "bool", "string")
        return next((f"{name}[]" for name in names if fits(f"{name}[]", value)), None)
    return next((name for name in ("bool", "string", "float32", "float64") if fits(name, value)), None)


def fits(name: str, value: MetaNode) -> bool:
    """Whether the value can be written as this type; a float may be rounded."""
    if name.endswith("[]"):
        inner = name.removesuffix("[]")
        if inner == "uint8":
            return type(value) is bytes
        if type(value) is not list:
            return False
        if inner in RANGES:  # min and max loop in C, which matters for lists of a million items
            return _are_ints(value) and (not value or (min(value) in RANGES[inner] and max(value) in RANGES[inner]))
        return all(fits(inner, item) for item in value)
    if name in RANGES:
        return type(value) is int and value in RANGES[name]
    if name == "float32":
        return type(value) is float and not F32_LIMIT <= abs(value) < float("inf")
    if name == "float64":
        return type(value) is float
    if name == "bool":
        return type(value) is bool
    return name == "string" and type(value) is str and _is_encodable(value)


def _are_ints(items: list[MetaNode]) -> TypeGuard[list[int]]:
    return set(map(type, items)) <= {int}


def _is_encodable(text: str) -> bool:
    """Whether decoding the string's bytes gives the same string."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text
        except UnicodeEncodeError:
            return False
    return True


def is_exact(name: str, value: MetaNode) -> bool:
    """Whether the type stores a value that fits it without rounding."""
    if not name.startswith("float32"):
        return True
    items = value if isinstance(value, list) else [value]
    if name.endswith("[][]"):
        return all(is_exact(name.removesuffix("[]"), item) for item in items)
    return array("d", array("f", items)).tobytes() == array("d", items).tobytes()


def encode(name: str, value: MetaNode) -> bytes:
    """The little-endian bytes of a value that fits its type, without the type's code."""
    if name.endswith("[]"):
        assert isinstance(value, (list, bytes))
        inner = name.removesuffix("[]")
        head = pack("<IQ", CODES["array" if inner.endswith("[]") else inner], len(value))
        if isinstance(value, bytes):
            return head + value
        if inner in FORMAT:
            numbers = array(FORMAT[inner], value)
            if sys.byteorder == "big":
                numbers.byteswap()
            return head + numbers.tobytes()
        return head + b"".join(encode(inner, item) for item in value)
    if name == "string":
        assert isinstance(value, str)
        return encode_text(value)
    if name == "bool":
        return b"\1" if value else b"\0"
    return pack("<" + FORMAT[name], value)


def encode_text(text: str) -> bytes:
    """A string's bytes, behind their number as a u64."""
    data = text.encode("utf-8", "surrogateescape")
    return pack("<Q", len(data)) + data


def type_code(name: str) -> int:
    """The number of a type in a file; all arrays share one."""
    return CODES["array" if name.endswith("[]") else name]
