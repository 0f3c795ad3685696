"""Turns a MessagePack file into Python values; `cursor` describes the bytes.

Keys are str or bytes, which is also the default of the msgpack package. Refused: duplicate keys in a map (of which
readers take the last), more objects than fit into the rest of the file, bytes behind the one object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.text import cut
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.flax.cursor import Cursor
from ckptconv.io.limits import MAX_DEPTH, MAX_NODES

if TYPE_CHECKING:
    from ckptconv.io.source import Source

Value = Any
"""Plain values, bytes, dicts and lists of them, and whatever an extension becomes."""

_LONG = 200
"""Errors show this many characters of a place or a key."""


class Unpacker:
    """Makes the values of a file. Subclasses decide what extensions, and other objects, become.

    path:  the keys down to the current value.
    begun: whether any key was read.
    """

    def __init__(self, source: Source) -> None:
        self.cursor = Cursor(source)
        self.path: list[str | bytes | int] = []
        self.begun = False
        self._nodes = 0

    def unpack(self) -> Value:
        """The object that is the whole file. Raises CorruptFileError, LimitError, UnsupportedError."""
        value = self.value()
        if self.cursor.left:
            raise self.cursor.bad(f"{self.cursor.left:,} bytes follow the one object that such a file has")
        return value

    def value(self) -> Value:
        """The next object."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise LimitError(f"it has more than {MAX_NODES:,} values")
        kind, number = self.cursor.head()
        match kind:
            case "value":
                return number
            case "str":
                return self.string(self._utf8(number))
            case "bytes":
                return self.raw(number)
            case "map":
                return self.mapping(self._read_map(number))
            case "array":
                return self.array_of(number)
            case _:
                return self._read_extension(number)

    def string(self, text: str) -> Value:
        """What a string becomes that is not a key."""
        return text

    def raw(self, length: int) -> Value:
        """What bytes become that are not a key. The `length` bytes are next; all of them have to be read or skipped."""
        return self.cursor.text(length)

    def mapping(self, made: dict[str | bytes, Value]) -> Value:
        """What a map becomes."""
        return made

    def extension(self, code: int, length: int) -> Value:
        """What an extension becomes. Its `length` bytes are next; all of them have to be read or skipped."""
        raise NotImplementedError

    def place(self) -> str:
        """The keys down to the current value, joined by dots."""
        return ".".join(map(str, self.path))

    def at(self) -> str:
        """The place for errors; a long one is cut."""
        place = self.place()
        return repr(cut(place, _LONG)) if place else "the root"

    def array_of(self, count: int) -> list[Value]:
        """The next `count` objects."""
        self._check_depth()
        self._check_fits(count, 1)
        result = []
        for i in range(count):
            self.path.append(i)
            result.append(self.value())
            self.path.pop()
        return result

    def _read_map(self, count: int) -> dict[str | bytes, Value]:
        self._check_depth()
        self._check_fits(count, 2)
        result: dict[str | bytes, Value] = {}
        for _ in range(count):
            key = self._read_key()
            if key in result:
                raise self.cursor.bad(f"the key {key[:_LONG]!r} comes twice in {self.at()}")
            self.path.append(key)
            result[key] = self.value()
            self.path.pop()
        return result

    def _read_key(self) -> str | bytes:
        kind, number = self.cursor.head()
        if kind == "bytes":
            return self.cursor.text(number)
        if kind != "str":
            raise UnsupportedError(
                f"{self.at()} has a key that is not a string, which flax does not read", hint="name things by strings"
            )
        key = self._utf8(number)
        self.begun = True
        return key

    def _utf8(self, length: int) -> str:
        try:
            return self.cursor.text(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.cursor.bad("a string before this place is not UTF-8") from error

    def _read_extension(self, length: int) -> Value:
        code = self.cursor.number(1, signed=True)
        end = self.cursor.position + length
        if length > self.cursor.left:
            raise self.cursor.cut(f"the {length:,} bytes of {self.at()}")
        value = self.extension(code, length)
        if self.cursor.position != end:
            raise self.cursor.bad(f"{self.at()} ends elsewhere than its extension does")
        return value

    def _check_fits(self, count: int, width: int) -> None:
        """Raise CorruptFileError unless `count` objects, of at least `width` bytes each, fit into the file."""
        if count * width > self.cursor.left:
            raise self.cursor.cut(f"the {count:,} entries of {self.at()}")

    def _check_depth(self) -> None:
        if len(self.path) > MAX_DEPTH:
            raise LimitError(f"it is nested more than {MAX_DEPTH} deep")
