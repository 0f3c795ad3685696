"""What others might still run of a file that cannot be read here: a pickle runs up to where it breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.inspecting.uses import UNFOLLOWED, not_looked_at
from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.errors import UnknownFormatError
from ckptconv.formats.archive import nemo_config
from ckptconv.formats.beside import files
from ckptconv.formats.torch.pickle.broken import names_something

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.report import Finding
    from ckptconv.errors import CkptconvError
    from ckptconv.io.source import Source

CONTAINER_FORMATS = ("archive", nemo_config.NAME)
"""Formats whose files may hold one checkpoint, several, or none."""

_INERT_STARTS = (b"PK", b"GGUF")
"""How documents and data sets start, of which nothing runs if no format claims them."""

_PICKLE_STARTS = (b"PK", b"\x89HDF", *files.COMPRESSED)
"""How files start that pickle's users unpack by themselves."""


def programs_in_unreadable(
    source: Source, path: str, format: str, error: CkptconvError, findings: list[Finding]
) -> Iterator[Program]:
    """What others might run of a file that `error` keeps from being read as `format` ("" if no format was found).

    A file that nothing would run adds a finding instead, or is passed over. Raises for an archive member that does not
    inflate.
    """
    source.read_at(max(source.size - 1, 0), min(1, source.size))  # inflates all of a member, or raises
    start = bytes(source.read_at(0, min(len(files.NUMPY), source.size)))
    name = source.path.name.lower()
    unclaimed = isinstance(error, UnknownFormatError)
    call = Opaque("pickle.load", "called", (UNFOLLOWED + error.message,))
    if format == "skops":  # skops asks for consent to everything that it would build
        findings.append(not_looked_at(path, error.message))
    elif format == "npz" or start == files.NUMPY:
        if format == "npz" or _is_object_array(source):
            yield Program(path, replace(call, name="numpy.load"), "numpy", "allow_pickle=True")
    elif format in CONTAINER_FORMATS or (unclaimed and start.startswith(_INERT_STARTS)) or files.is_cut_zip(source):
        findings.append(not_looked_at(path, error.message))
    elif format == "onnx" or name.endswith(".onnx"):
        return  # only its metadata may name something to run, and that cannot be read
    elif name.endswith(files.ZSTD):
        yield Program(path, replace(call, name="pandas.read_pickle"), "pandas")
    elif start.startswith(_PICKLE_STARTS) or (unclaimed and files.is_disguised(source)) or names_something(source):
        yield Program(path, call, "pickle")


def _is_object_array(source: Source) -> bool:
    """Whether a .npy file's header gives a dtype of Python objects, which numpy keeps as a pickle."""
    header = bytes(source.read_at(0, min(1024, source.size)))
    return b"O" in header.partition(b"descr")[2][:16]
