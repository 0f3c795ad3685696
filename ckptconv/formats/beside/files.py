"""The files of a folder, and of the folders in it, by their paths from there: ``unet/config.json``.

Links to folders are not followed, since what they lead to lies elsewhere, and ``.git`` is passed over, from which
nobody loads. A file may hold a pickle, or another program, if it starts as a container of some does, or is called as
pickles are, since a pickle of protocol 0 starts with anything.

    80 02 … 80 05           a pickle of these protocols
    "PK"                    a zip archive: torch.save, TorchScript, Keras, numpy's .npz, TorchServe
    89 "HDF", "GGUF"        models of Keras' with layers that are code, and chat templates
    93 "NUMPY"              one array of numpy's
    "ustar" at 257          a tar archive: NeMo, torch.save before 0.1.12
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError, LimitError
from ckptconv.io.limits import MAX_DEPTH, MAX_FILES
from ckptconv.io.source import reason

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.io.source import Source

PICKLED = (
    ".pkl", ".pickle", ".pk", ".p", ".dill", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".th", ".sav", ".model",
    ".pdparams", ".pdopt", ".nemo", ".mar", ".h5", ".hdf5", ".keras",
)  # fmt: skip
"""What pickles are called, archives that may be compressed as a whole, and files that need not start at their start."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".z", ".lz4")
"""What comes behind, where they are compressed; joblib's need not say so."""

COMPRESSED = (
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x5d\0\0",
    b"\x04\x22\x4d\x18",
)
"""How what joblib.load unpacks by itself begins: zlib, gzip, bzip2, xz, LZMA, LZ4."""

NUMPY = b"\x93NUMPY"

_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"PK\x05\x06", b"\x89HDF", b"GGUF", NUMPY)
_TAR, _TAR_AT = b"ustar", 257
_PASSED = (".git",)


def files_in(folder: Path) -> list[str]:
    """Paths of the regular files in a folder and below, sorted. Raises FileAccessError, LimitError."""
    found: list[str] = []
    waiting = [PurePosixPath()]
    while waiting:
        home = waiting.pop()
        try:
            with os.scandir(folder / home) as entries:
                for entry in entries:
                    with suppress(OSError):  # a symlink in a circle, or to where nobody may look
                        if entry.is_file():
                            found.append(str(home / entry.name))
                        elif entry.is_dir(follow_symlinks=False) and entry.name not in _PASSED:
                            waiting.append(home / entry.name)
        except OSError as error:
            raise FileAccessError(
                f"cannot list this folder: {reason(error)}", path=folder / home, hint="check its permissions"
            ) from error
        if len(found) + len(waiting) > MAX_FILES or len(home.parts) > MAX_DEPTH:
            raise LimitError(
                f"there are more than {MAX_FILES:,} files in this folder, or folders more than {MAX_DEPTH} deep",
                path=folder, hint="name a file inside it",
            )  # fmt: skip
    return sorted(found)


def may_hold_a_program(source: Source) -> bool:
    """Whether its first bytes or its name say so."""
    start = bytes(source.read_at(0, min(_TAR_AT + len(_TAR), source.size)))
    name = source.path.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return start.startswith(_STARTS) or start[_TAR_AT:] == _TAR or name.endswith(PICKLED)
