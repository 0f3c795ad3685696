"""Pickles one after the other in a file. Scanning the opcodes of one finds where it ends.

An opcode's argument is empty, a fixed number of bytes, one or two lines, or a little-endian length of 1, 4 or 8 bytes
and that many bytes (CPython's ``pickletools``). Nothing is built here; `Machine` does that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import COPY_AGAIN, CorruptFileError, LimitError
from ckptconv.formats.torch.pickle.values import Elided
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from ckptconv.core.tensor import SpanFile

FIRST = 256
"""Bytes that are read first. Each further read doubles them, so that little of what follows the pickle is read."""

_PIECE = 4096
"""Bytes of a line that are read at a time."""

_PLAIN = b"(012NRQabdeu]})lsto\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"
_FIXED = {1: b"Khq\x80\x82", 2: b"M\x83", 4: b"Jjr\x84", 8: b"G\x95"}
_LINES = {1: b"FILSVPgp", 2: b"ci"}
_COUNTED = {1: b"UC\x8a\x8c", 4: b"TXB\x8b", 8: b"\x8d\x8e\x96"}

_BYTES = b"TB\x8e\x96"

ELIDED = 0xFF
LONG = 1024

_STOP, _UNKNOWN, _LINE, _COUNT = -1, -2, -10, -20


def _steps(stops: bytes) -> list[int]:
    """The size of each opcode's argument, or a negative code: `_STOP` for the opcodes in `stops`, `_UNKNOWN`, `_LINE`
    minus a number of lines, `_COUNT` minus the width of a length.
    """
    steps = [_UNKNOWN] * 256
    for code in _PLAIN:
        steps[code] = 0
    for code in stops:
        steps[code] = _STOP
    for base, sign, table in ((0, 1, _FIXED), (_LINE, -1, _LINES), (_COUNT, -1, _COUNTED)):
        for count, codes in table.items():
            for code in codes:
                steps[code] = base + sign * count
    return steps


_STEPS = _steps(b".")
_TO_BUILD = _steps(b".b")


class PickleStream:
    """Reads pickles from bytes ``[position, end)`` of a file, in order."""

    def __init__(self, file: SpanFile, position: int, end: int) -> None:
        self.position = position
        self._file = file
        self._end = end

    def pickle(self, limit: int = MAX_PICKLE_BYTES) -> bytes:
        """The next pickle, including STOP. Reads at most twice its length, or `FIRST` bytes.

        Raises CorruptFileError if the bytes end first or are no pickle, LimitError past `limit` bytes.
        """
        data, at = b"", 0
        while True:
            try:
                at = _end_of_pickle(data, at, _STEPS)
            except _CutShortError as cut:
                data, at = self._more(data, cut.needed, limit), cut.at
                continue
            self.position += at
            return data[:at]

    def elided(self, limit: int = MAX_PICKLE_BYTES, *, to_build: bool = False) -> tuple[bytes, list[Elided]]:
        """The next pickle, including STOP, without its runs of `LONG` or more bytes, which are not read. Each is
        replaced by our own opcode `ELIDED` and its index in the list, as four bytes.

        to_build: stop after the next BUILD, because what follows may not be an opcode.

        Raises CorruptFileError if the bytes end first or are no pickle, LimitError past `limit` bytes that are kept.
        """
        kept, left_out = bytearray(), list[Elided]()
        kept += self._scan(kept, left_out, limit, _TO_BUILD if to_build else _STEPS)
        return bytes(kept), left_out

    def as_far_as_it_goes(self, limit: int) -> tuple[bytes, list[Elided]]:
        """Like `elided`, for what may be truncated or no pickle: all opcodes up to that point, and perhaps bytes that
        are no opcodes. Raises LimitError.
        """
        kept, left_out = bytearray(), list[Elided]()
        start = self.position
        try:
            kept += self._scan(kept, left_out, limit, _STEPS)
        except _NoOpcodeError as error:  # an unpickler stops there, so the rest of the file need not be read
            kept += bytes(self._file.read_at(self.position, error.place + 1))
        except CorruptFileError:
            at = max(self.position, start)
            kept += bytes(self._file.read_at(at, min(self._end - at, limit)))
        return bytes(kept), left_out

    def _scan(self, kept: bytearray, left_out: list[Elided], limit: int, steps: list[int]) -> bytes:
        """Add everything before the last long run to `kept`, and the runs to `left_out`; return what follows them."""
        data, at = b"", 0
        while True:
            try:
                at = _end_of_pickle(data, at, steps, LONG)
            except _CutShortError as cut:
                data, at = self._more(data, cut.needed, limit - len(kept)), cut.at
                continue
            except _LongRunError as run:
                opcode = data[run.at]
                span = ByteSpan(self._file, self._skip_run(run), run.length)
                kept += data[: run.at] + bytes([ELIDED]) + len(left_out).to_bytes(4, "little")
                left_out.append(Elided(span, opcode))
                data, at = b"", 0
                continue
            self.position += at
            return data[:at]

    def _skip_run(self, run: _LongRunError) -> int:
        """Skip a run of bytes; where it starts. Raises CorruptFileError, without moving, if it is truncated."""
        before = self.position
        self.position += run.start
        try:
            return self.skip(run.length)
        except CorruptFileError:
            self.position = before
            raise

    def skip_argument(self, code: int) -> None:
        """Skip an opcode's argument; of its bytes, only lines are read. Raises CorruptFileError if there is no such
        opcode, or if its argument is truncated.
        """
        step = _STEPS[code]
        if step == _UNKNOWN:
            raise _NoOpcodeError(0, bytes([code]))
        if step > _STOP:
            self.skip(step)
        elif step <= _COUNT:
            self.skip(int.from_bytes(self.take(_COUNT - step), "little"))
        elif step <= _LINE:
            for _ in range(_LINE - step):
                self._skip_line()

    def _skip_line(self) -> None:
        while b"\n" not in (piece := self.take(min(_PIECE, max(self.left, 1)))):
            continue
        self.position -= len(piece) - piece.index(b"\n") - 1

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises CorruptFileError if there are fewer."""
        if not 0 <= count <= self._end - self.position:
            raise _bad(f"{count:,} bytes are asked for where {self._end - self.position:,} are left")
        data = bytes(self._file.read_at(self.position, count))
        self.position += count
        return data

    def skip(self, count: int) -> int:
        """Skip `count` bytes without reading them; where they start. Raises CorruptFileError."""
        start = self.position
        if not 0 <= count <= self._end - start:
            raise _bad(f"{count:,} bytes are said to follow where {self._end - start:,} are left")
        self.position += count
        return start

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self._end - self.position

    def _more(self, data: bytes, needed: int, limit: int) -> bytes:
        """`data` and what follows it, at least `needed` bytes in all."""
        if needed > limit:
            raise LimitError(f"a pickle has more than {limit:,} bytes", hint="do not trust it")
        if needed > self.left:
            raise _bad("a pickle is cut short")
        size = min(max(needed, FIRST, 2 * len(data)), limit, self.left)
        if isinstance(self._file, Source):
            self._file.spend(size - len(data))
        return data + bytes(self._file.read_at(self.position + len(data), size - len(data)))


class _LongRunError(Exception):
    """The opcode at `at` pushes `length` bytes, which start at `start`."""

    def __init__(self, at: int, start: int, length: int) -> None:
        super().__init__(at, start, length)
        self.at, self.start, self.length = at, start, length


class _CutShortError(Exception):
    """The bytes end within the opcode at `at`. A complete pickle has at least `needed` bytes."""

    def __init__(self, at: int, needed: int) -> None:
        super().__init__(at, needed)
        self.at, self.needed = at, needed


class _NoOpcodeError(CorruptFileError):
    """The byte at `place` is not an opcode."""

    def __init__(self, place: int, byte: bytes) -> None:
        super().__init__(f"byte {byte!r} is not an opcode of a pickle", hint=COPY_AGAIN)
        self.place = place


def _end_of_pickle(data: bytes, at: int, steps: list[int], long: int | None = None) -> int:
    """Scan opcodes from `at` on, up to one that `steps` stops at; the offset after it. Raises _CutShortError,
    CorruptFileError, and _LongRunError at a run of `long` or more bytes.
    """
    size = len(data)
    while at < size:
        step = steps[data[at]]
        if step >= 0:
            following = at + 1 + step
        elif step == _STOP:
            return at + 1
        elif step == _UNKNOWN:
            raise _NoOpcodeError(at, data[at : at + 1])
        elif step > _COUNT:
            following = _after_lines(data, at + 1, _LINE - step)
        else:
            following = _after(data, at + 1, _COUNT - step)
            start = at + 1 + _COUNT - step
            if long is not None and following - start >= long and start <= size and data[at] in _BYTES:
                raise _LongRunError(at, start, following - start)
        if following >= size:  # at least a STOP is still to come
            raise _CutShortError(at, following + 1)
        at = following
    raise _CutShortError(at, size + 1)


def _after_lines(data: bytes, at: int, lines: int) -> int:
    """The offset after so many lines, or the end of `data` if they do not end within it."""
    for _ in range(lines):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return len(data)
    return at


def _after(data: bytes, at: int, width: int) -> int:
    """The offset after a length of `width` bytes and the bytes that it counts; it may be past the end."""
    if at + width > len(data):
        return at + width
    return at + width + int.from_bytes(data[at : at + width], "little")


def _bad(why: str) -> CorruptFileError:
    return CorruptFileError(why)
