"""The contents of a torch.save archive (`zip_archive` has its layout): its small records, its pickle, its storages.

The archive may be a file, or a range of bytes in one (see `embedded`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, UnsupportedError, located
from ckptconv.formats.torch.pickle import Machine
from ckptconv.formats.torch.tree.placing import Placer, ZipRecords
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.formats.torch.pickle import Value
    from ckptconv.formats.torch.values.stubs import StorageStub
    from ckptconv.io.source import Source

VERSIONS = ("version", ".data/version")

BOOKKEEPING = ("byteorder", ".data/serialization_id", ".format_version", ".storage_alignment", *VERSIONS)
"""Records that torch's writer adds to the object."""

_NUMPY_MAGIC = b"\x93NUMPY"

MAX_VERSION = 10
"""The newest archive version that torch knows (kMaxSupportedFileFormatVersion in caffe2/serialize/versions.h)."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The contents of an archive: the unpickled value, and where its tensors' bytes are.

    machine:  the interpreter that ran the pickle.
    storages: those that the pickle names; every stub in `value` refers to one of these objects.
    placer:   makes the tensor for a stub in `value`. Costs one small read for each storage.
    size:     bytes of the pickle.
    root:     the archive's top folder, with its slash.
    """

    value: Value
    machine: Machine
    storages: Collection[StorageStub]
    placer: Placer
    size: int
    root: str


def open_saved(archive: ZipArchive, constructors: TorchConstructors | None = None) -> Saved:
    """Read the archive's small records and its pickle. Raises CorruptFileError, LimitError, UnsupportedError."""
    return follow(archive, checked_root(archive), constructors=constructors)


def checked_root(archive: ZipArchive) -> str:
    """The archive's top folder, once its small records are checked. Raises CorruptFileError, UnsupportedError."""
    root = root_of(archive)
    if root is None and is_unfinished(archive):
        raise CorruptFileError(
            "torch.save ended before it wrote anything of its object, as where a part of it cannot be pickled",
            hint="save it again, such as model.state_dict()",
        )
    if root is None:
        raise UnsupportedError("this zip archive is not a torch checkpoint", hint="unpack it, and name a file in it")
    check_small_records(archive, root)
    return root


def saved_in(source: Source, constructors: TorchConstructors | None = None) -> Saved:
    """The contents of one of several files. Raises CkptconvError with the file's path."""
    with located(source.path):
        if source.size >= 2 and bytes(source.read_at(0, 2)) != b"PK":
            raise UnsupportedError(
                "this is not an archive that torch 1.6 and later save",
                hint=f"ckptconv inspect {source.path} says what it is",
            )
        return open_saved(ZipArchive.of(source), constructors)


def is_unfinished(archive: ZipArchive) -> bool:
    """Whether the archive has no object because that could not be pickled; torch.save finishes such archives too."""
    return bool(archive.entries) and all(entry.partition("/")[2] in BOOKKEEPING for entry in archive.entries)


def root_of(archive: ZipArchive, name: str = "data.pkl") -> str | None:
    """The only top folder that holds a file `name`, with its slash; None if there is none, or several."""
    roots = [
        entry.removesuffix(name) for entry in archive.entries if entry.endswith("/" + name) and entry.count("/") == 1
    ]
    return roots[0] if len(roots) == 1 else None


def follow(
    archive: ZipArchive, root: str, name: str = "data", constructors: TorchConstructors | None = None,
    machine: type[Machine] = Machine,
) -> Saved:  # fmt: skip
    """Interpret ``NAME.pkl``, whose storages are in the folder ``NAME``. Raises CorruptFileError, LimitError."""
    data = archive.read(f"{root}{name}.pkl", MAX_PICKLE_BYTES)
    if constructors is None:
        constructors = TorchConstructors()
    interpreter = machine(data, constructors)
    value = interpreter.run()
    storages = [*constructors.storages.values(), *constructors.retyped.values()]
    return Saved(value, interpreter, storages, placer_of(archive, root, name), len(data), root)


def placer_of(archive: ZipArchive, root: str, name: str = "data") -> Placer:
    """The placer for tensors whose storages are in the folder ``NAME``. Raises CorruptFileError."""
    return Placer(ZipRecords(archive, f"{root}{name}/"), is_big_endian(archive, root))


def check_small_records(archive: ZipArchive, root: str) -> None:
    """Check what else torch requires of an archive: all entries in one folder, and a version that it knows."""
    if strays := [name for name in archive.entries if not name.startswith(root)]:
        raise CorruptFileError(f"the archive has an entry {strays[0]!r} outside of {root!r}")
    _refuse_case_collisions(archive)
    if not any(root + name in archive.entries for name in VERSIONS):
        raise CorruptFileError("the archive has no version record")
    for name in (".format_version", ".storage_alignment", *VERSIONS):
        text = archive.read(root + name, 64) if root + name in archive.entries else b"1"
        if not text.strip().isdigit() or (name in VERSIONS and not 1 <= int(text) <= MAX_VERSION):
            raise CorruptFileError(f"the record {name} says {text!r}")


def refuse_npz(archive: ZipArchive, source: Source) -> None:
    """Refuse an archive that numpy.load would read too: it opens any zip, and unpickles arrays of objects."""
    is_npz = source.path.suffix.lower() == ".npz"
    for name in archive.entries:
        if name.endswith(".npy") or (is_npz and archive.start(name, len(_NUMPY_MAGIC)) == _NUMPY_MAGIC):
            raise CorruptFileError(
                f"the archive has an entry {name!r}, which numpy.load would read", hint="do not trust it"
            )


def _refuse_case_collisions(archive: ZipArchive) -> None:
    """Refuse names that differ only in case: torch's reader (miniz) ignores case and may take either entry."""
    seen: dict[bytes, str] = {}
    for name, entry in archive.entries.items():
        other = seen.setdefault(entry.name.lower(), name)
        if other != name:
            raise CorruptFileError(
                f"the archive has entries {other!r} and {name!r}, and torch takes either for the other",
                hint="do not trust it",
            )


def is_big_endian(archive: ZipArchive, root: str) -> bool:
    """Whether the ``byteorder`` record says "big"."""
    if root + "byteorder" not in archive.entries:
        return False
    order = archive.read(root + "byteorder", 16)
    if order not in (b"little", b"big"):
        raise CorruptFileError(f"unknown byte order {order!r}")
    return order == b"big"
