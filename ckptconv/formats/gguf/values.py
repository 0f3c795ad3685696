"""The types of GGUF's metadata: which Python value each is, and its bytes.

Types are named ``uint8 … int64 float32 float64 bool string``, an array of them ``float32[]``, an array of arrays
``int32[][]``. An array of ``uint8`` is `bytes`; any other a list. Strings are UTF-8; other bytes in them become lone
surrogates, and bytes again.
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
"""``gguf_metadata_value_type``."""

CODES: dict[str, int] = {name: code for code, name in TYPES.items()}

FORMAT: dict[str, str] = {
    "uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "uint64": "Q", "int64": "q",
    "float32": "f", "float64": "d",
}  # fmt: skip
"""How `struct` and `array` call the numbers."""

WIDTH: dict[str, int] = {name: array(code).itemsize for name, code in FORMAT.items()} | {"bool": 1}

RANGES: dict[str, range] = {
    name: range(-(1 << (8 * WIDTH[name] - 1)), 1 << (8 * WIDTH[name] - 1)) if name[0] == "i"
    else range(1 << (8 * WIDTH[name]))
    for name in FORMAT if name[0] != "f"
}  # fmt: skip

F32_LIMIT = 3.4028235677973366e38
"""What rounds to a finite F32 is smaller."""

Typed = tuple[str, "MetaNode"]
"""A type's name, and a value of it."""


def natural(value: MetaNode) -> str | None:
    """The type that a value gets which does not come with one; None where GGUF has none for it.

    Those that llama.cpp looks for: sizes are ``uint32``, fractions ``float32``, lists of integers ``int32[]``.
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
        if inner in RANGES:  # a loop of C, for lists of a million
            return _all_of(value, int) and (not value or (min(value) in RANGES[inner] and max(value) in RANGES[inner]))
        return all(fits(inner, item) for item in value)
    if name in RANGES:
        return type(value) is int and value in RANGES[name]
    if name == "float32":
        return type(value) is float and not F32_LIMIT <= abs(value) < float("inf")
    if name == "float64":
        return type(value) is float
    if name == "bool":
        return type(value) is bool
    return name == "string" and type(value) is str and _is_text(value)


def _all_of(items: list[MetaNode], kind: type) -> TypeGuard[list[int]]:
    return set(map(type, items)) <= {kind}


def _is_text(text: str) -> bool:
    """Whether a string comes back from its bytes as it is."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text
        except UnicodeEncodeError:
            return False
    return True


def is_exact(name: str, value: MetaNode) -> bool:
    """Whether a value that fits the type is not rounded by it."""
    if not name.startswith("float32"):
        return True
    items = value if isinstance(value, list) else [value]
    if name.endswith("[][]"):
        return all(is_exact(name.removesuffix("[]"), item) for item in items)
    return array("d", array("f", items)).tobytes() == array("d", items).tobytes()


def spell(name: str, value: MetaNode) -> bytes:
    """A value's bytes, little-endian, without its type. It has to fit."""
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
        return head + b"".join(spell(inner, item) for item in value)
    if name == "string":
        assert isinstance(value, str)
        return spell_text(value)
    if name == "bool":
        return b"\1" if value else b"\0"
    return pack("<" + FORMAT[name], value)


def spell_text(text: str) -> bytes:
    """A string: its length in eight bytes, and its bytes."""
    data = text.encode("utf-8", "surrogateescape")
    return pack("<Q", len(data)) + data


def code_of(name: str) -> int:
    """The number that stands for a type."""
    return CODES["array" if name.endswith("[]") else name]
