"""The files of a folder, and of the folders in it, by their paths from there: ``unet/config.json``.

Links to folders are followed where they lead to one inside, under the name that they have: who loads ``unet/`` does not
ask what it is. What lies outside belongs to somebody else, and is told; ``.git`` is passed over, from which nobody
loads. A file may hold a pickle, or another program, if it starts as a container of some does, or is called as
pickles are, since a pickle of protocol 0 starts with anything.

    80 02 … 80 05           a pickle of these protocols
    "PK"                    a zip archive: torch.save, TorchScript, Keras, numpy's .npz, TorchServe
    89 "HDF", "GGUF"        models of Keras' with layers that are code, and chat templates
    93 "NUMPY"              one array of numpy's
    "ustar" at 257          a tar archive: NeMo, torch.save before 0.1.12
    "TFL3" at 4             a graph of TensorFlow Lite's
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.io.gzip import GZIP_MAGIC
from ckptconv.io.gzip import head as gzip_head
from ckptconv.io.inflated import MAGICS, head, method
from ckptconv.io.limits import MAX_DEPTH, MAX_FILES
from ckptconv.io.source import reason
from ckptconv.io.zip import END, END_MAGIC, FULL16

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptconv.io.source import Source

PICKLED = (
    ".pkl", ".pickle", ".pk", ".p", ".dill", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".th", ".sav", ".model",
    ".pdparams", ".pdopt", ".nemo", ".mar", ".h5", ".hdf5", ".keras", ".npz", ".skops", ".onnx",
)  # fmt: skip
"""What pickles are called, archives that may be compressed as a whole, and files that need not start at their start."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".z", ".lz4")
"""What comes behind, where they are compressed; joblib's need not say so."""

ZSTD = tuple(f"{suffix}.zst" for suffix in (".pkl", ".pickle", ".pk", ".p"))
"""How files end that pandas.read_pickle unpacks by zstd, as it tells by the name."""

COMPRESSED = (*(magic for magic, _ in MAGICS), GZIP_MAGIC)
"""How what joblib.load unpacks by itself begins: zlib, gzip, bzip2, xz, LZMA, LZ4."""

LISTING = ".metadata"
"""What torch.distributed.checkpoint calls the pickle that it reads first; of one process's part, ``__0.metadata``."""

_LISTINGS = re.compile(r"(__\d+)?\.metadata")  # not the .metadata files of the hub's download cache, which are texts

NUMPY = b"\x93NUMPY"

_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"PK\x05\x06", b"\x89HDF", b"GGUF", NUMPY)
_TAR, _TAR_AT, _TFLITE = b"ustar", 257, b"TFL3"
_FIRST = _TAR_AT + len(_TAR)

PASSED = frozenset([".git"])

MODULES = (".py", ".pyc", ".so", ".pyd", ".zip")
"""How files end of which Python makes modules; an archive may be full of them."""


_CLASS_NAME = re.compile(
    b'"' + b"".join(b"(?:%c|\\\\u00%02x)" % (code, code) for code in b"class_name") + rb'"\s{0,64}:\s{0,64}"',
    re.IGNORECASE,
)

_Place = tuple[PurePosixPath, tuple[str, ...]]
"""A folder below, and the real paths of those that led there."""


@dataclass
class Listing:
    """Paths of the regular files in a folder and below, sorted; and of what could not be listed, with the reason."""

    paths: list[str] = field(default_factory=list)
    unseen: dict[str, str] = field(default_factory=dict)


def files_in(folder: Path) -> Listing:
    """What lies there. Raises LimitError."""
    found, folders = Listing(), 0
    waiting: list[_Place] = [(PurePosixPath(), (os.path.realpath(folder),))]
    while waiting:
        home, above = waiting.pop()
        waiting += _list(folder, home, above, found)
        folders += 1
        if len(found.paths) + len(waiting) + folders > MAX_FILES or len(home.parts) > MAX_DEPTH:
            raise LimitError(
                f"there are more than {MAX_FILES:,} files in this folder, or folders more than {MAX_DEPTH} deep",
                path=folder, hint="name a file in it",
            )  # fmt: skip
    found.paths.sort()
    return found


def _list(folder: Path, home: PurePosixPath, above: tuple[str, ...], found: Listing) -> Iterator[_Place]:
    """Add the files of one folder in it; the folders in that."""
    try:
        with os.scandir(folder / home) as entries:
            for entry in entries:
                with suppress(OSError):  # a symlink in a circle, or to where nobody may look
                    if entry.is_file():
                        found.paths.append(str(home / entry.name))
                    elif entry.is_dir() and entry.name not in PASSED:
                        yield from _folder(entry, home / entry.name, above, found)
    except OSError as error:
        found.unseen[str(home)] = reason(error)


def _folder(entry: os.DirEntry[str], path: PurePosixPath, above: tuple[str, ...], found: Listing) -> Iterator[_Place]:
    """A folder that is to be listed; none where a link leads out, or back to one that led here."""
    real = os.path.join(above[-1], entry.name)
    if not entry.is_symlink():
        yield path, (*above, real)
        return
    real = os.path.realpath(real)
    if not PurePath(real).is_relative_to(above[0]):
        found.unseen[str(path)] = "it is a link to a folder elsewhere"
    elif real not in above:
        yield path, (*above, real)


def may_hold_a_program(source: Source) -> bool:
    """Whether its first bytes or its name say so, or the first bytes of what is compressed in it."""
    name = source.path.name.lower()
    if name.endswith(ZSTD):
        return True
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    if name.endswith(PICKLED) or _LISTINGS.fullmatch(name) is not None:
        return True
    start = bytes(source.read_at(0, min(_FIRST, source.size)))
    return _is_start(start) or (start.startswith(COMPRESSED) and _is_start(_inflated_start(source, start)))


def _is_start(start: bytes) -> bool:
    return start.startswith(_STARTS) or start[4:8] == _TFLITE or start[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR


def _inflated_start(source: Source, start: bytes) -> bytes:
    if start.startswith(GZIP_MAGIC):
        return gzip_head(source, _FIRST)
    name = method(source)
    return head(source, name, _FIRST) if name else b""


def is_disguised(source: Source) -> bool:
    """Whether it is an archive that does not begin as one: a zip with something before it, which is read from its end
    on, or a tar of the kind that has no mark.
    """
    if _ends_as_zip(source):
        return True
    block = bytes(source.read_at(0, min(512, source.size)))
    digits = block[148:156].strip(b" \0")
    if len(block) < 512 or not digits or digits.strip(b"01234567"):
        return False
    return int(digits, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def says_class(source: Source) -> bool:
    """Whether JSON of any size has a text under the key ``class_name``, however it spells that. Reads all of it."""
    step = 1 << 20
    for at in range(0, source.size, step):
        if _CLASS_NAME.search(bytes(source.read_at(at, min(step + 256, source.size - at)))):
            return True
    return False


def is_cut_zip(source: Source) -> bool:
    """Whether it is a zip archive without its end, as a download that broke off is; from the end on all read one."""
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
    """The names of files, without the folders that they are in. Asked again of the same files, it is known."""
    return frozenset(path.rpartition("/")[2] for path in paths)


@lru_cache(maxsize=2)
def folders_with_modules(paths: frozenset[str]) -> frozenset[str]:
    """The folders in which, or below which, are files that Python imports; "" is the one that all are in."""
    found: set[str] = set()
    for path in paths:
        home = path.rpartition("/")[0] if path.endswith(MODULES) else None
        while home is not None and home not in found:
            found.add(home)
            home = home.rpartition("/")[0] if home else None
    return frozenset(found)


@lru_cache(maxsize=2)
def near(paths: frozenset[str]) -> dict[str, list[str]]:
    """By folder, the files that are in it, or in a folder in it whose name is a number."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        home = path.rpartition("/")[0]
        found[home].append(path)
        outer, _, version = home.rpartition("/")
        if version.isdecimal():
            found[outer].append(path)
    return found
