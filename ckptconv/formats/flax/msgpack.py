"""MessagePack, walked over in its file. Each object is a byte that says what follows, all numbers big-endian:

    00…7f   an integer, 0 to 127              e0…ff   an integer, -32 to -1
    cc…cf   unsigned, 1, 2, 4, 8 bytes        d0…d3   signed, 1, 2, 4, 8 bytes
    ca cb   a float of 4, of 8 bytes          c0  nil        c2 c3   false, true        c1   never used
    a0…bf   a str of 0 to 31 bytes            d9 da db   its length in 1, 2, 4 bytes; UTF-8
                                              c4 c5 c6   bytes, likewise
    90…9f   an array of 0 to 15 objects       dc dd      their number in 2, 4 bytes
    80…8f   a map of 0 to 15 pairs            de df      likewise; each pair a key, a value
    d4…d8   an extension of 1, 2, 4, 8, 16 bytes         a byte for its type, signed, stands before them
                                              c7 c8 c9   its length in 1, 2, 4 bytes, the type, the bytes

Keys are str or bytes, as msgpack's own reader asks by default. Refused: a key that comes twice in a map (where readers
take the last), numbers of objects that the rest of the file has no room for, bytes behind the one object.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Literal

from ckptconv.core.text import cut
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.limits import MAX_DEPTH, MAX_MSGPACK_TEXT, MAX_NODES

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.source import Source

Value = Any
"""Plain values, bytes, dicts and lists of them, and whatever stands for an extension."""


FIRST = 256
"""Bytes that are read at first, and behind everything that was passed over: mostly the next header, and little more."""

MOST = 1 << 16

_LONG = 200

Kind = Literal["value", "uint", "int", "float", "str", "bytes", "array", "map", "extension"]

_FLOATS = {4: Struct(">f"), 8: Struct(">d")}


def _heads() -> list[tuple[Kind, int, MetaNode] | None]:
    """By first byte: the kind, the width of the number that follows, and the number itself where none does."""
    heads: list[tuple[Kind, int, MetaNode] | None] = [None] * 256
    for code in range(256):
        if code < 0x80 or code >= 0xE0:
            heads[code] = "value", 0, code if code < 0x80 else code - 256
        elif code < 0xC0:
            kind: Kind = "map" if code < 0x90 else "array" if code < 0xA0 else "str"
            heads[code] = kind, 0, code & (31 if kind == "str" else 15)
    for code, value in {0xC0: None, 0xC2: False, 0xC3: True}.items():
        heads[code] = "value", 0, value
    rows: list[tuple[int, Kind, tuple[int, ...]]] = [
        (0xC4, "bytes", (1, 2, 4)), (0xC7, "extension", (1, 2, 4)), (0xCA, "float", (4, 8)),
        (0xCC, "uint", (1, 2, 4, 8)), (0xD0, "int", (1, 2, 4, 8)), (0xD9, "str", (1, 2, 4)),
        (0xDC, "array", (2, 4)), (0xDE, "map", (2, 4)),
    ]  # fmt: skip
    for start, kind, widths in rows:
        for code, width in enumerate(widths, start):
            heads[code] = kind, width, None
    for code, length in enumerate((1, 2, 4, 8, 16), 0xD4):
        heads[code] = "extension", 0, length
    return heads


_HEADS = _heads()


class Cursor:
    """Reads heads from a file's start on, in windows that grow, and passes over what is not asked for.

    ended: whether the file ended before what it says is in it.
    """

    def __init__(self, source: Source) -> None:
        self.ended = False
        self._source = source
        self._data = b""
        self._at = 0
        self._base = 0
        self._chunk = FIRST
        self._text = 0

    @property
    def position(self) -> int:
        """Offset in the file."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """Bytes up to the file's end."""
        return self._source.size - self.position

    def head(self) -> tuple[Kind, Any]:
        """The next head: ``"value"`` and what it is; else the kind, and a length or a number of objects."""
        if self._at >= len(self._data):
            self._need(1)
        head = _HEADS[self._data[self._at]]
        if head is None:
            raise self.bad("there is a byte 0xc1, which msgpack never uses")
        self._at += 1
        kind, width, known = head
        if not width:
            return kind, known
        data = self._take(width)
        if kind == "float":
            return "value", _FLOATS[width].unpack(data)[0]
        number = int.from_bytes(data, "big", signed=kind == "int")
        return ("value" if kind in ("int", "uint") else kind), number

    def number(self, width: int, *, signed: bool = False) -> int:
        """The next number."""
        return int.from_bytes(self._take(width), "big", signed=signed)

    def text(self, length: int) -> bytes:
        """The bytes of a value that is kept. Raises LimitError where those of the file come to too many."""
        if length > self.left:
            raise self.cut(f"{length:,} bytes of text")
        self._count(length)
        return self._take(length)

    def skip(self, length: int) -> int:
        """Pass over bytes without reading them; where they start."""
        start = self.position
        if length > self._source.size - start:
            raise self.cut(f"{length:,} bytes")
        self._at += length
        if self._at > len(self._data):
            self._base, self._data, self._at, self._chunk = start + length, b"", 0, FIRST
        return start

    def again(self, start: int, length: int) -> bytes:
        """Bytes of a value that were passed over, and are kept after all."""
        self._count(length)
        return bytes(self._source.read_at(start, length))

    def bad(self, what: str) -> CorruptFileError:
        """An error at this place."""
        return CorruptFileError(f"byte {self.position:,}: {what}")

    def cut(self, what: str) -> CorruptFileError:
        """The error that the file ends before something that it says is in it."""
        self.ended = True
        size = self._source.size
        return CorruptFileError(
            f"the file is cut short: {what} should follow byte {self.position:,}, and it ends at byte {size:,}"
        )

    def _count(self, length: int) -> None:
        """Count bytes that are kept."""
        self._text += length
        if self._text > MAX_MSGPACK_TEXT:
            raise LimitError(f"its strings and bytes that are not arrays are more than {MAX_MSGPACK_TEXT:,} bytes")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._need(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _need(self, count: int) -> None:
        """Have the next `count` bytes in memory."""
        end = self._base + len(self._data)
        missing = count - (len(self._data) - self._at)
        if missing > self._source.size - end:
            raise self.cut("more")
        more = self._source.read_at(end, min(max(missing, self._chunk), self._source.size - end))
        self._data = self._data[self._at :] + bytes(more)
        self._base += self._at
        self._at = 0
        self._chunk = min(2 * self._chunk, MOST)


class Unpacker:
    """Makes values of what a file says; what becomes of extensions is for those who inherit from it.

    path: the keys down to the value that is being made.
    begun: whether a first key has been read.
    """

    def __init__(self, source: Source) -> None:
        self.cursor = Cursor(source)
        self.path: list[str | bytes | int] = []
        self.begun = False
        self._nodes = 0

    def unpack(self) -> Value:
        """The file's one object. Raises CorruptFileError, LimitError, UnsupportedError."""
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
                return self.mapping(self._map(number))
            case "array":
                return self.array_of(number)
            case _:
                return self._extension(number)

    def string(self, text: str) -> Value:
        """What becomes of a string that is a value."""
        return text

    def raw(self, length: int) -> Value:
        """What becomes of bytes that are a value, which are next; all of them have to be read or passed over."""
        return self.cursor.text(length)

    def mapping(self, made: dict[str | bytes, Value]) -> Value:
        """What becomes of a map."""
        return made

    def extension(self, code: int, length: int) -> Value:
        """What becomes of an extension, whose `length` bytes are next; all of them have to be read or passed over."""
        raise NotImplementedError

    def place(self) -> str:
        """The keys down to the value that is being made, joined by dots."""
        return ".".join(map(str, self.path))

    def at(self) -> str:
        """The place as errors name it, which keys of any length have to fit into."""
        place = self.place()
        return repr(cut(place, _LONG)) if place else "the root"

    def array_of(self, count: int) -> list[Value]:
        """So many objects."""
        self._check_depth()
        self._room(count, 1)
        made = []
        for i in range(count):
            self.path.append(i)
            made.append(self.value())
            self.path.pop()
        return made

    def _map(self, count: int) -> dict[str | bytes, Value]:
        self._check_depth()
        self._room(count, 2)
        made: dict[str | bytes, Value] = {}
        for _ in range(count):
            key = self._key()
            if key in made:
                raise self.cursor.bad(f"the key {key[:_LONG]!r} comes twice in {self.at()}")
            self.path.append(key)
            made[key] = self.value()
            self.path.pop()
        return made

    def _key(self) -> str | bytes:
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

    def _extension(self, length: int) -> Value:
        code = self.cursor.number(1, signed=True)
        end = self.cursor.position + length
        if length > self.cursor.left:
            raise self.cursor.cut(f"the {length:,} bytes of {self.at()}")
        value = self.extension(code, length)
        if self.cursor.position != end:
            raise self.cursor.bad(f"{self.at()} ends elsewhere than its extension does")
        return value

    def _room(self, count: int, least: int) -> None:
        """Check that so many objects can follow, of at `least` so many bytes."""
        if count * least > self.cursor.left:
            raise self.cursor.cut(f"the {count:,} entries of {self.at()}")

    def _check_depth(self) -> None:
        if len(self.path) > MAX_DEPTH:
            raise LimitError(f"it is nested more than {MAX_DEPTH} deep")
