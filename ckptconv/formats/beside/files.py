"""Listing a folder and its subfolders, and telling which files may hold a pickle or another program.

Paths are relative to the folder: ``unet/config.json``. A link to a folder inside is followed, under its own name,
because a library that loads ``unet/`` follows it too. A link out of the folder is not followed but reported. ``.git``
is skipped: nothing loads from there.

A file may hold a program if it begins like one of these containers, or if it is named like a pickle (a pickle of
protocol 0 can begin with almost anything).

    80 02 … 80 05           a pickle of protocol 2 to 5
    "PK"                    a zip archive: torch.save, TorchScript, Keras, numpy's .npz, TorchServe
    89 "HDF", "GGUF"        Keras models with layers that are code; chat templates
    93 "NUMPY"              a numpy array
    "ustar" at 257          a tar archive: NeMo, torch.save before 0.1.12
    "TFL3" at 4             a TensorFlow Lite graph
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.errors import LimitError
from ckptconv.io.gzip import GZIP_MAGIC
from ckptconv.io.gzip import head as gzip_head
from ckptconv.io.inflated import MAGICS, head, method
from ckptconv.io.limits import MAX_DEPTH, MAX_FILES
from ckptconv.io.source import reason
from ckptconv.io.zip import END, END_MAGIC, FULL16, STAMPED_MAGICS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptconv.io.source import Source

PICKLED = (
    ".pkl", ".pickle", ".pk", ".p", ".dill", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".th", ".sav", ".model",
    ".pdparams", ".pdopt", ".nemo", ".mar", ".h5", ".hdf5", ".keras", ".npz", ".skops", ".onnx",
)  # fmt: skip
"""Suffixes of pickles, of archives that may be compressed as a whole, and of formats whose magic bytes need not come
first.
"""

_COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".z", ".lz4")
"""Suffixes that may follow if the file is compressed; joblib's files need not have one."""

ZSTD = tuple(f"{suffix}.zst" for suffix in (".pkl", ".pickle", ".pk", ".p"))
"""Suffixes by which pandas.read_pickle knows that it must decompress zstd."""

COMPRESSED = (*(magic for magic, _ in MAGICS), GZIP_MAGIC)
"""Magic bytes of the compressions that joblib.load undoes by itself: zlib, gzip, bzip2, xz, LZMA, LZ4."""

LISTING = ".metadata"
"""The pickle that torch.distributed.checkpoint reads first; for one process's part it is ``__0.metadata``."""

_LISTINGS = re.compile(r"(__\d+)?\.metadata")  # not the .metadata files of the hub's download cache, which are text

NUMPY = b"\x93NUMPY"

_STARTS = (
    b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"PK\x05\x06", b"\x89HDF", b"GGUF", NUMPY,
    *STAMPED_MAGICS,
)  # fmt: skip
_TAR, _TAR_AT, _TFLITE = b"ustar", 257, b"TFL3"
_FIRST = _TAR_AT + len(_TAR)

SKIPPED = frozenset([".git"])

MODULES = (".py", ".pyc", ".so", ".pyd", ".zip")
"""Suffixes of files that Python can import; a .zip may be full of modules."""

_CLASS_NAME = re.compile(
    b'"' + b"".join(b"(?:%c|\\\\u00%02x)" % (code, code) for code in b"class_name") + rb'"\s{0,64}:\s{0,64}"',
    re.IGNORECASE,
)


class _Subfolder(NamedTuple):
    """A folder that is still to be listed.

    path:      its path from the folder that is listed.
    ancestors: its own real path, after those of the folders above it.
    """

    path: PurePosixPath
    ancestors: tuple[str, ...]


@dataclass
class Listing:
    """The files in a folder and its subfolders.

    paths:   regular files, sorted, by their path from the folder.
    skipped: folders that were not listed, each with the reason.
    """

    paths: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def list_files(folder: Path) -> Listing:
    """List `folder` and its subfolders. Raises LimitError if there are too many files or they are nested too deeply."""
    found, folders = Listing(), 0
    waiting = [_Subfolder(PurePosixPath(), (os.path.realpath(folder),))]
    while waiting:
        subfolder = waiting.pop()
        waiting += _list_one(folder, subfolder, found)
        folders += 1
        if len(found.paths) + len(waiting) + folders > MAX_FILES or len(subfolder.path.parts) > MAX_DEPTH:
            raise LimitError(
                f"there are more than {MAX_FILES:,} files in this folder, or folders more than {MAX_DEPTH} deep",
                path=folder, hint="name a file in it",
            )  # fmt: skip
    found.paths.sort()
    return found


def _list_one(folder: Path, subfolder: _Subfolder, found: Listing) -> Iterator[_Subfolder]:
    """Add the files of one subfolder to `found`; yield the folders in it that are to be listed as well."""
    try:
        with os.scandir(folder / subfolder.path) as entries:
            for entry in entries:
                with suppress(OSError):  # a circular symlink, or one to where this user may not look
                    if entry.is_file():
                        found.paths.append(str(subfolder.path / entry.name))
                    elif entry.is_dir() and entry.name not in SKIPPED:
                        yield from _inner_folder(entry, subfolder, found)
    except OSError as error:
        found.skipped[str(subfolder.path)] = reason(error)


def _inner_folder(entry: os.DirEntry[str], parent: _Subfolder, found: Listing) -> Iterator[_Subfolder]:
    """The folder of an entry; nothing if it is a link out of the listed folder, or back to one above."""
    path, ancestors = parent.path / entry.name, parent.ancestors
    real = os.path.join(ancestors[-1], entry.name)
    if not entry.is_symlink():
        yield _Subfolder(path, (*ancestors, real))
        return
    real = os.path.realpath(real)
    if not PurePath(real).is_relative_to(ancestors[0]):
        found.skipped[str(path)] = "it is a link to a folder elsewhere"
    elif real not in ancestors:
        yield _Subfolder(path, (*ancestors, real))


def may_hold_program(source: Source) -> bool:
    """Whether a file may hold a program, by its name or its first bytes, which are decompressed if need be."""
    name = source.path.name.lower()
    if name.endswith(ZSTD):
        return True
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    if name.endswith(PICKLED) or _LISTINGS.fullmatch(name) is not None:
        return True
    start = bytes(source.read_at(0, min(_FIRST, source.size)))
    if _is_container(start):
        return True
    return start.startswith(COMPRESSED) and _is_container(_inflated_start(source, start))


def _is_container(start: bytes) -> bool:
    return start.startswith(_STARTS) or start[4:8] == _TFLITE or start[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR


def _inflated_start(source: Source, start: bytes) -> bytes:
    if start.startswith(GZIP_MAGIC):
        return gzip_head(source, _FIRST)
    name = method(source)
    return head(source, name, _FIRST) if name else b""


def is_disguised(source: Source) -> bool:
    """Whether a file is an archive without an archive's magic bytes at its start: a zip with something in front of it
    (a zip is read from its end), or a tar of the old kind that has no magic bytes, only a checksum.
    """
    if _ends_as_zip(source):
        return True
    block = bytes(source.read_at(0, min(512, source.size)))
    digits = block[148:156].strip(b" \0")
    if len(block) < 512 or not digits or digits.strip(b"01234567"):
        return False
    return int(digits, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def has_class_name(source: Source) -> bool:
    """Whether JSON of any size has a string under the key ``class_name``, even spelled with escapes. Reads the whole
    file.
    """
    step = 1 << 20
    for at in range(0, source.size, step):
        if _CLASS_NAME.search(bytes(source.read_at(at, min(step + 256, source.size - at)))):
            return True
    return False


def is_cut_zip(source: Source) -> bool:
    """Whether a zip archive lacks its end, as after an interrupted download. Every zip reader starts from the end."""
    if bytes(source.read_at(0, min(4, source.size))) != b"PK\x03\x04":
        return False
    return END_MAGIC not in _tail(source)


def _tail(source: Source) -> bytes:
    size = min(END.size + FULL16, source.size)  # the end record, and the longest comment behind it
    return bytes(source.read_at(source.size - size, size))


def _ends_as_zip(source: Source) -> bool:
    tail = _tail(source)
    at = tail.rfind(END_MAGIC, 0, max(0, len(tail) - END.size + len(END_MAGIC)))
    return at >= 0 and at + END.size + END.unpack_from(tail, at)[7] == len(tail)


@lru_cache(maxsize=2)
def names_of(paths: frozenset[str]) -> frozenset[str]:
    """The file names alone, without folders. Cached, because it is asked for each configuration of a folder."""
    return frozenset(path.rpartition("/")[2] for path in paths)


@lru_cache(maxsize=2)
def folders_with_modules(paths: frozenset[str]) -> frozenset[str]:
    """The folders with files that Python can import in them or anywhere below; "" is the folder of all paths."""
    found: set[str] = set()
    for path in paths:
        home = path.rpartition("/")[0] if path.endswith(MODULES) else None
        while home is not None and home not in found:
            found.add(home)
            home = home.rpartition("/")[0] if home else None
    return frozenset(found)


@lru_cache(maxsize=2)
def files_by_folder(paths: frozenset[str]) -> dict[str, list[str]]:
    """For each folder the files in it, and those in its subfolders whose names are numbers (Triton's versions)."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        home = path.rpartition("/")[0]
        found[home].append(path)
        outer, _, version = home.rpartition("/")
        if version.isdecimal():
            found[outer].append(path)
    return found
