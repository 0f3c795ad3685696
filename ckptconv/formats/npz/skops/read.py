"""Reader of the ``.skops`` archives that ``skops.io.dump`` writes.

    schema.json     the tree of the object (`schema`), with "protocol", 0 to 2, and "_skops_version"
    NUMBER.npy      an array of numbers or texts (`ckptconv.formats.tensors.npy`)
    NUMBER.npz      a sparse matrix, as scipy.sparse.save_npz writes it
    UUID.bin        bytes

Entries are stored or deflated. All arrays of numbers are the model's, named by their paths: ``state.coef_`` is an
attribute of the object, as in a pickle of it. Objects are shown as data; those that skops loads only if they are
trusted are reported (`schema`).

Not read, and reported: sparse matrices, and arrays of neither numbers nor texts, such as the nodes of a tree. Refused:
newer protocols, and what `schema` refuses.

Source: skops/io/_persist.py (`dump`, `load`), _utils.py (`read_schema`).
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.arrays import NUMPY_DESCR
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, NumpyScalar, Opaque, TensorRef, is_too_deep
from ckptconv.core.names import ALONE, NameBudget, free_name
from ckptconv.core.notes import Notes
from ckptconv.core.report import UNREADABLE, Finding
from ckptconv.core.text import quoted
from ckptconv.errors import COPY_AGAIN, CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.npz.entries import read_text, tensor_in
from ckptconv.formats.npz.skops.schema import Schema
from ckptconv.formats.tensors.npy import FIRST, Npy, Text, read_header
from ckptconv.io.limits import MAX_DEPTH, MAX_NPZ_TEXT, MAX_SCHEMA, MAX_SCHEMA_VALUES, MAX_TENSORS
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.npz.skops.nodes import Path
    from ckptconv.io.source import Source

NAME = "skops"
SCHEMA = "schema.json"
NEWEST = 2
"""The protocol of skops 0.16."""

_LOADER = "__loader__"
_DESCR = re.compile(rb"'descr': '([^']+)'")


def claims(source: Source) -> bool:
    """Whether this is a zip archive with a schema that names loaders, or is too large to be examined."""
    try:
        archive = ZipArchive.of(source)
        return SCHEMA in archive.entries and _has_loaders(archive.read(SCHEMA, MAX_SCHEMA))
    except LimitError:
        return True
    except CkptconvError:
        return False


def _has_loaders(data: bytes) -> bool:
    """Whether the document's root has a loader, in any encoding and spelling that Python's json accepts."""
    text = data.decode(json.detect_encoding(data), "replace")
    if _LOADER in text or "\\u" not in text:
        return _LOADER in text
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False  # skops cannot read it either
    return isinstance(document, dict) and _LOADER in document


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads its directory, the schema, the arrays' headers, and bytes and texts, which are metadata.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    archive = ZipArchive.of(source)
    if SCHEMA not in archive.entries:
        raise UnsupportedError(f"the archive has no {SCHEMA!r}", hint="leave --from out")
    text = archive.read(SCHEMA, MAX_SCHEMA)
    if sum(map(text.count, (b"[", b"{", b","))) > MAX_SCHEMA_VALUES:
        raise LimitError(f"{SCHEMA!r} has more than {MAX_SCHEMA_VALUES:,} values")
    document = strict_json.object_of(text, repr(SCHEMA), hint=COPY_AGAIN)
    files = _Files(archive)
    schema = Schema(files, len(text), _protocol(document))
    root = schema.build(document, ())
    if is_too_deep(root):
        raise LimitError(f"its tree is more than {MAX_DEPTH} levels deep")
    return Checkpoint(
        files.tensors, root=root, format=NAME, notes=Notes(source=NAME, programs=tuple(schema.programs.values())),
        findings=(*files.findings, *files.unused()), file=source,
    )  # fmt: skip


def _protocol(document: dict[str, object]) -> int:
    protocol = document.get("protocol")
    if type(protocol) is not int or protocol < 0:
        raise CorruptFileError(f"{SCHEMA!r} has no protocol")
    if protocol > NEWEST:
        raise UnsupportedError(
            f"it has protocol {protocol} of skops; known are 0 to {NEWEST}", hint="save it again with an older skops"
        )
    return protocol


class _Files:
    """The files that the schema names.

    tensors: the arrays of numbers by name, in the order of the schema.
    """

    def __init__(self, archive: ZipArchive) -> None:
        self._archive = archive
        self._headers: dict[bytes, Npy | Text] = {}
        self._used = {SCHEMA}
        self._kept_bytes = 0
        self._name_budget = NameBudget()
        self.tensors: dict[str, LazyTensor] = {}
        self.findings: list[Finding] = []

    def unused(self) -> list[Finding]:
        """A finding if there are files that the schema does not name."""
        names = [name for name in self._archive.entries if name not in self._used]
        message = f"files in it that the schema does not name stay behind: {quoted(names)}"
        return [Finding("members", "info", names[0], message)] if names else []

    def array(self, file: str, path: Path) -> MetaNode:
        try:
            header = self._header(file)
        except UnsupportedError as error:
            return self.unread("numpy.ndarray", file, path, error.message)
        if isinstance(header, Text):
            self._count_bytes(header.nbytes)
            return read_text(self._archive, file, file, header)
        if len(self.tensors) >= MAX_TENSORS:
            raise LimitError(f"the file has more than {MAX_TENSORS:,} arrays")
        name = self._name(path)
        name = free_name(name, self.tensors.__contains__, lambda number: f"{name}_{number}")
        self.tensors[name] = tensor_in(self._archive, file, file, header)
        return TensorRef(name)

    def scalar(self, file: str, path: Path) -> MetaNode:
        try:
            header = self._header(file)
        except UnsupportedError:
            return self.array(file, path)
        if isinstance(header, Text) or header.info.shape or header.swapped:
            return self.array(file, path)
        data = self._archive.read(file, len(header.raw) + header.nbytes)[len(header.raw) :]
        tensor_in(self._archive, file, file, header)  # checks the size
        return NumpyScalar(NUMPY_DESCR[header.info.dtype], data)

    def data(self, file: str) -> bytes:
        self._count_bytes(self._use(file))
        return self._archive.read(file, MAX_NPZ_TEXT)

    def type_of(self, file: str) -> str:
        self._use(file)
        match = _DESCR.search(self._archive.start(file, FIRST))
        return "numpy.dtype" if match is None else match[1].decode("latin-1")

    def unread(self, type_: str, file: str, path: Path, why: str) -> MetaNode:
        self._use(file)
        where = self._name(path)
        self.findings.append(Finding(UNREADABLE, "warning", where, f"{where!r} is not read: {why}"))
        return Opaque(type_, "unread", (file,))

    def _name(self, path: Path) -> str:
        return self._name_budget.counted(".".join(map(str, path)) or ALONE)

    def _header(self, file: str) -> Npy | Text:
        self._use(file)
        return read_header(partial(self._archive.start, file), repr(file), self._headers)

    def _use(self, file: str) -> int:
        """Mark a file as used, and return its size. Raises CorruptFileError if it is not in the archive."""
        if file not in self._archive.entries:
            raise CorruptFileError(f"{SCHEMA!r} names {file!r}, which is not in the archive")
        self._used.add(file)
        return self._archive.entries[file].size

    def _count_bytes(self, count: int) -> None:
        """Count texts and bytes that are kept. Raises LimitError if they are too many in all."""
        self._kept_bytes += count
        if self._kept_bytes > MAX_NPZ_TEXT:
            raise LimitError(f"its texts and bytes are more than {MAX_NPZ_TEXT:,} bytes")
