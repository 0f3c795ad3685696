"""Reader of an .npz archive: arrays of numbers are tensors, arrays of texts metadata."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.encodings import own_tensors
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import Notes
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.npz.entries import read_text, tensor_in
from ckptconv.formats.npz.stored import stored_as
from ckptconv.formats.npz.tensors import read_as_bf16
from ckptconv.formats.targets.blobs import restore
from ckptconv.formats.tensors.npy import RECORD, SUFFIX, Npy, read_header
from ckptconv.io.limits import MAX_NPZ_TEXT, MAX_SAFETENSORS_HEADER, MAX_TENSORS
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from ckptconv.core.metadata import NumpyArray, NumpyScalar
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.tensors.npy import Text
    from ckptconv.io.source import Source


def claims(source: Source) -> bool:
    """Whether this is a zip archive with nothing but arrays, and our record."""
    try:
        entries = ZipArchive.of(source).entries
        return bool(entries) and all(name == RECORD or name.endswith(SUFFIX) for name in entries)
    except CkptconvError:
        return False


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads its directory, the headers of all arrays, and texts, but no other elements.

    Raises CorruptFileError, LimitError, and UnsupportedError for arrays of neither numbers nor texts.
    """
    archive = ZipArchive.of(source)
    if not archive.entries:
        raise UnsupportedError("the zip archive is empty", hint="numpy.savez(FILE, name=array) makes one with arrays")
    if len(archive.entries) > MAX_TENSORS:
        raise LimitError(f"the archive has more than {MAX_TENSORS:,} arrays")
    stored: dict[str, LazyTensor] = {}
    headers: dict[bytes, Npy | Text] = {}
    texts: list[tuple[int, str, NumpyArray | NumpyScalar]] = []
    for position, entry in enumerate(archive.entries):
        if entry == RECORD:
            continue
        if not entry.endswith(SUFFIX):
            raise UnsupportedError(f"{entry!r} in the archive is not an array", hint="save it without that file")
        name = entry.removesuffix(SUFFIX)
        header = read_header(partial(archive.start, entry), repr(entry), headers)
        if isinstance(header, Npy):
            stored[name] = tensor_in(archive, entry, name, header)
            continue
        texts.append((position, name, read_text(archive, entry, name, header)))
        if sum(len(value.data) for _, _, value in texts) > MAX_NPZ_TEXT:
            raise LimitError(f"its texts are more than {MAX_NPZ_TEXT:,} bytes", hint="save it without them")
    if RECORD in archive.entries:
        if texts:
            raise UnsupportedError(
                f"{texts[0][1]!r} is text beside {RECORD!r}", hint=f"save it without that array, or without {RECORD!r}"
            )
        return _read_recorded(archive, stored, source)
    root = StateDict(container="dict", plain=tuple(texts)) if texts else StateDict()
    return Checkpoint(
        stored, root=root, format="npz", notes=Notes(source="npz"), findings=tuple(read_as_bf16(stored)), file=source
    )


def _read_recorded(archive: ZipArchive, stored: dict[str, LazyTensor], source: Source) -> Checkpoint:
    """The checkpoint that the record describes."""
    try:
        text = archive.read(RECORD, MAX_SAFETENSORS_HEADER).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{RECORD!r} is not UTF-8") from error
    record, findings = records.parse(text), list[Finding]()
    tensors = own_tensors(stored, record, findings, stored_as)
    root = restore(record.root, tensors, findings)
    return recorded_checkpoint(record, root, tensors, findings, format="npz", file=source)
