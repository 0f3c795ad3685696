"""Parts of what was read: whatever lies inside is given, and nothing is cut short where it would reach past the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptconv.errors import CorruptFileError
from ckptconv.io.cursor import Cursor
from ckptconv.io.source import Source
from ckptconv.io.window import Window

if TYPE_CHECKING:
    from pathlib import Path

DATA = bytes(range(16))
INSIDE = [(0, 16), (0, 0), (16, 0), (0, 1), (15, 1), (3, 7)]
OUTSIDE = [(-1, 1), (0, -1), (0, 17), (16, 1), (15, 2), (17, 0), (-4, 4), (1 << 70, 1), (1, 1 << 70)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(b"before" + DATA + b"after")
    return tmp_path / "x"


@pytest.mark.parametrize(("offset", "length"), INSIDE)
def test_what_lies_inside_is_read(offset: int, length: int, path: Path) -> None:
    with Source(path) as source:
        window = Window.of(source, 6, 16)
        buffer = bytearray(length)
        window.read_into(memoryview(buffer), offset)
        assert bytes(window.read_at(offset, length)) == buffer == DATA[offset : offset + length]
        assert bytes(Window.of(source, 6 + offset, length).read_at(0, length)) == buffer


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
def test_what_reaches_outside_is_refused_even_where_the_file_goes_on(offset: int, length: int, path: Path) -> None:
    with Source(path) as source:
        window = Window.of(source, 6, 16)
        with pytest.raises(CorruptFileError, match="ends at its byte 16") as refused:
            window.read_at(offset, length)
        assert refused.value.path == path
        if 0 <= length <= 17:
            with pytest.raises(CorruptFileError, match="ends at its byte 16"):
                window.read_into(memoryview(bytearray(length)), offset)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 28), (27, 1), (28, 0), (1 << 70, 1)])
def test_a_window_on_what_the_file_lacks_is_refused(offset: int, length: int, path: Path) -> None:
    with Source(path) as source, pytest.raises(CorruptFileError, match="the file ends at byte 27") as refused:
        Window.of(source, offset, length)
    assert (refused.value.path, bool(refused.value.hint)) == (path, True)


@pytest.mark.parametrize("counts", [[16], [0, 16, 0], [1] * 16, [5, 11]])
def test_a_cursor_takes_all_that_is_there_and_no_byte_more(counts: list[int]) -> None:
    cursor = Cursor(DATA, "the head", CorruptFileError)
    assert b"".join(cursor.take(count) for count in counts) == DATA
    assert (cursor.left, cursor.take(0)) == (0, b"")
    with pytest.raises(CorruptFileError, match="the head is cut short"):
        cursor.take(1)
    assert cursor.at == 16  # what is refused takes nothing
