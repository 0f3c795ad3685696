"""A file that is read in ranges, and never mapped.

If a mapped file is truncated, the process is killed; a read just fails. Mapped pages also count as resident memory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ckptconv.errors import (
    CUT_SHORT,
    CkptconvError,
    CorruptFileError,
    FileAccessError,
    LimitError,
    SourceChangedError,
    UsageError,
)
from ckptconv.io import positional

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.progress import Progress
    from ckptconv.io.folder import Folder

T = TypeVar("T")

MAX_NEIGHBOURS = 10_000
"""The most files of a folder to compare a mistyped name with."""

CHECK_PATH = "check the path"
"""The hint if nothing better is known."""

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w-]*(\.\d[\w-]*)*")
"""OWNER/NAME on the Hugging Face hub, but no file name with a suffix: suffixes start with a letter."""

READ_FIRST = "read its tensors before close(), or inside of the with block"

UNBUFFERED_READ = 4096
"""Reads of up to this many bytes do without a buffer."""


class Closeable(Protocol):
    """Something that holds files open."""

    def close(self) -> None:
        """Close them. Closing twice is harmless."""


class Source:
    """A regular file opened for reading in ranges, from any thread. A context manager.

    path:       as it was given.
    size:       in bytes, when it was opened.
    identity:   changes if the file is replaced or written to.
    bytes_read: the bytes read so far, for tests.
    parsed:     what format detection has parsed, for the reader (`once`).
    companions: the folder of files for which this file stands; it is closed together with it.
    beside:     the folder that it is in, if that is not a folder on disk.
    progress:   called with the bytes done and the bytes in all, if opening takes more than reading headers.
    """

    beside: Folder | None = None
    progress: Progress | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open `path`. Raises FileAccessError if it is missing, unreadable, a folder, a pipe or a device."""
        if os.fspath(path) == "-":
            raise UsageError("reading from standard input is not supported", hint="give the path of a file")
        self.path = Path(path)
        try:
            fd = os.open(self.path, _OPEN_FLAGS)
        except ValueError as error:  # a NUL in the path
            raise FileAccessError(f"cannot open this path: {error}", path=path, hint=CHECK_PATH) from error
        except OSError as error:
            if os.path.isdir(self.path):
                raise _not_a_file(self.path, "a folder") from error
            raise FileAccessError(f"cannot open: {reason(error)}", path=path, hint=_hint(path, error)) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise _not_a_file(self.path, _kind(status.st_mode))
        self._initialize(self.path, status.st_size, _identity(status), fd)

    def _initialize(self, path: Path, size: int, identity: tuple[int, ...], fd: int = -1) -> None:
        """Set the attributes that every source has. One that is not itself a file on disk has no handle."""
        self.path, self.size, self.identity = path, size, identity
        self._fd = fd
        self._closed = False
        self.bytes_read = 0
        self.parsed: dict[object, object] = {}
        self.companions: Closeable | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._closed = True
        self.release_handle()
        folder, self.companions = self.companions, None
        if folder is not None:
            folder.close()

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle or copy, for a closed file only: two owners of one handle would close it twice, the
        second time perhaps as another file's.
        """
        if not self._closed:
            raise TypeError(f"an open file cannot be pickled or copied: open {os.fspath(self.path)} again instead")
        return {**self.__dict__, "parsed": {}, "progress": None}

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Call `make` once per key, and return its result again later; likewise for a CkptconvError that it raises.

        So a reader need not parse again what format detection has parsed.
        """
        if key not in self.parsed:
            try:
                self.parsed[key] = make()
            except CkptconvError as error:
                self.parsed[key] = error.with_traceback(None)  # a traceback would keep the data alive
        known = self.parsed[key]
        if isinstance(known, CkptconvError):
            raise known
        return cast("T", known)

    def release_handle(self) -> None:
        """Close the operating system's handle, until `reopen_handle`."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # harmless, as nothing was written
                os.close(fd)

    def reopen_handle(self) -> None:
        """Open a handle again after `release_handle`. Raises SourceChangedError if it is no longer the same file."""
        if self._fd >= 0 or self._closed:
            return
        try:
            self._fd = os.open(self.path, _OPEN_FLAGS)
        except OSError as error:
            raise self._changed("went away") from error
        if _identity(os.fstat(self._fd)) != self.identity:
            self.release_handle()
            raise self._changed("was replaced")

    def read_at(self, offset: int, length: int) -> memoryview:
        """Read exactly `length` bytes at `offset`, into new memory. Raises CorruptFileError past the end."""
        if length <= UNBUFFERED_READ and hasattr(os, "pread") and offset >= 0 and 0 <= length <= self.size - offset:
            data = self._read_small(offset, length)
            if len(data) == length:
                return memoryview(data)
        self._check_range(offset, length)
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return memoryview(buffer)

    def read_all(self, limit: int) -> bytes:
        """Read all of a small file. Raises LimitError if it has more than `limit` bytes."""
        if self.size > limit:
            message = f"it has {self.size:,} bytes; the limit is {limit:,}"
            raise LimitError(message, path=self.path)
        return bytes(self.read_at(0, self.size))

    def spend(self, count: int) -> None:
        """Count bytes that a reader turns into objects one by one.

        Raises LimitError if a small compressed file has become more of them than any honest file does.
        """

    def inflate(self, count: int) -> None:
        """Count bytes that were inflated from compressed data in the file. Raises LimitError likewise."""

    def _read_small(self, offset: int, length: int) -> bytes:
        """Read with a single system call: a file may have a million small headers. May return too few bytes."""
        try:
            data = os.pread(self._fd, length, offset)
        except OSError:  # `read_into` tries again, and reports it
            return b""
        self.bytes_read += len(data)
        return data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`. Raises SourceChangedError if the file has become shorter."""
        self._check_range(offset, len(buffer))
        done = 0
        while done < len(buffer):
            try:
                count = self._pread(buffer[done:], offset + done)
            except OSError as error:
                if self._closed:
                    raise UsageError("the checkpoint is closed", path=self.path, hint=READ_FIRST) from None
                raise FileAccessError(f"cannot read: {reason(error)}", path=self.path, hint="check the disk") from error
            if count == 0:
                raise self._changed("became shorter")
            done += count
        self.bytes_read += done

    def _pread(self, buffer: memoryview, offset: int) -> int:
        return positional.read_into(self._fd, buffer, offset)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(
                f"the file ends at byte {self.size}, and bytes {offset} to {offset + length} are asked for",
                path=self.path,
                hint=CUT_SHORT,
            )

    def place(self, offset: int) -> tuple[Source, int] | None:
        """The file on disk that holds the byte at `offset`, and the offset there; None if no file holds it as it is."""
        return self, offset

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if the file was written to since it was opened."""
        if _identity(os.fstat(self._fd)) != self.identity:
            raise self._changed("was written to")

    def _changed(self, how: str) -> SourceChangedError:
        return SourceChangedError(
            f"the file {how} while it was being read",
            path=self.path,
            hint="wait until it is written completely, then try again",
        )


def reason(error: OSError) -> str:
    """The operating system's message, in lower case and without the path."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _hint(path: str | os.PathLike[str], error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "the link leads in a circle: remove it"
    if not isinstance(error, FileNotFoundError):
        return "check the file's permissions"
    if str(path).startswith("file://"):
        return f"give the path by itself: {str(path).removeprefix('file://')}"
    if "://" in str(path):
        return "download it first: nothing is fetched here"
    if os.path.islink(path):  # snapshots in the hub's cache are links, which break when copied without the blobs
        return f"it is a link to {os.readlink(path)!r}, which is not there"
    return _missing_path_hint(Path(path)) or CHECK_PATH


def _missing_path_hint(path: Path) -> str:
    """What may have been meant by a path that does not exist; "" if there is no guess."""
    if any(mark in path.name for mark in "*?"):
        return "no file matches this pattern: check the folder and the suffix"
    if not path.parent.is_dir():
        missing = f"there is no folder {os.fspath(path.parent)!r}"
        looks_like_hub_id = _HUB_ID.fullmatch(path.as_posix())
        hub_hint = f"; a model of the Hugging Face hub is fetched by: hf download {path}" if looks_like_hub_id else ""
        return missing + hub_hint
    with suppress(OSError), os.scandir(path.parent) as entries:
        names = [entry.name for entry in islice(entries, MAX_NEIGHBOURS)]
        similar = get_close_matches(path.name, names, n=3, cutoff=0.8)
        # the stems have to be similar too: most files have the same suffix
        similar = [name for name in similar if get_close_matches(path.stem, [Path(name).stem])]
        if guesses := similar or [name for name in names if name.casefold() == path.name.casefold()]:
            return f"did you mean {os.fspath(path.with_name(guesses[0]))!r}?"
    return ""


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What changes if a path becomes another file, or if the file is written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a folder")


def _not_a_file(path: Path, what: str) -> FileAccessError:
    hint = "name a file in it" if what == "a folder" else "write it to a file first, and give that file's path"
    return FileAccessError(f"this is {what}, not a file", path=path, hint=hint)
