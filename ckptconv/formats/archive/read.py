"""Reader of archives with one checkpoint in them, of whatever format that has.

What in it is the checkpoint: the file that TorchServe's manifest names; else all of it, or all of the one folder in it,
where that is a checkpoint of several files (or one by the rules for folders); else the only file in it that is called
as checkpoints are. Where there are several they are listed, and each can be named as if the archive were a folder:
``archive.zip/policy.pth``. Archives in archives are not opened. See `ckptconv.io.archive` for what is refused.

    MAR-INF/MANIFEST.json   TorchServe: {"model": {"serializedFile": "model.pt", "handler": …, "modelFile": …}}
    *.tflite                MediaPipe: a task is a zip of such models

Source: pytorch/serve, model-archiver/model_archiver/model_packaging_utils.py and manifest_components/model.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import UnknownFormatError, UsageError, first_of, located
from ckptconv.formats import registry
from ckptconv.formats.archive import torchserve
from ckptconv.formats.beside.members import MODEL, TEXTS, contained, documents
from ckptconv.formats.detect import claimed, detect
from ckptconv.io.archive import Archive
from ckptconv.io.archive_kinds import is_program

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import Program
    from ckptconv.formats.base import Format
    from ckptconv.io.archive import MemberFolder
    from ckptconv.io.source import Source

NAME = "archive"

MOST_NAMES = 12
"""Members that an error lists."""

MOST_ASKED = 100
"""Members whose bytes are looked at where no name says which is the checkpoint."""


def read(source: Source) -> Checkpoint:
    """Open the archive: its directory, and the checkpoint in it as its own format does.

    Raises UsageError where there are several, UnknownFormatError where there is none, and what either's reader raises.
    """
    found = _read(source)
    if is_program(source):
        message = "it is a program as well, which is not looked at: what it does when it is started is not said here"
        found.findings = (Finding("program", "warning", "", message), *found.findings)
    return found


def _read(source: Source) -> Checkpoint:
    archive = Archive.of(source)
    served = torchserve.Manifest.of(archive)
    if served is not None:
        return _opened(archive, served.file, served.programs(archive))
    folder = _folder(archive)
    if folder is not None:
        return opened_folder(archive, *folder, NAME)
    return _opened(archive, _the_one(archive))


def opened_file(archive: Archive, path: str, format: str, programs: tuple[Program, ...] = ()) -> Checkpoint:
    """The checkpoint that is this member. Raises as its reader does, with its path."""
    member = archive.open(path)
    with located(member.path):
        inner = detect(member).read(member)
    found = contained(inner, archive, format, {path: MODEL}, documents(archive, (path,)), programs)
    packed = archive.members[path].compressed
    how = f", inflated into a temporary file of {archive.members[path].size:,} bytes" if packed else ""
    found.findings = (Finding("member", "info", path, f"{path!r} is read, as {inner.format}{how}"), *found.findings)
    return found


def opened_folder(
    archive: Archive, folder: MemberFolder, inner: Format, format: str, programs: tuple[Program, ...] = ()
) -> Checkpoint:
    """The checkpoint that is a folder of the archive, or one file by the rules for folders.

    Raises as its reader does.
    """
    checkpoint = inner.read(folder)
    used = folder.used
    uses = dict.fromkeys(used, MODEL)
    found = contained(checkpoint, archive, format, uses, documents(archive, uses), programs)
    where = f"the folder {folder.inner!r}" if folder.inner else "all of it"
    where = repr(used[0]) if len(used) == 1 else where
    message = f"{where} is read, as {checkpoint.format}"
    found.findings = (Finding("member", "info", folder.inner, message), *found.findings)
    return found


def _opened(archive: Archive, path: str, programs: tuple[Program, ...] = ()) -> Checkpoint:
    return opened_file(archive, path, NAME, programs)


def _folder(archive: Archive) -> tuple[MemberFolder, Format] | None:
    """The outermost folder that some format claims, of those in which there is nothing but the next."""
    folder = archive.folder("")
    while True:
        one = claimed(folder)
        if one is not None:
            return folder, one
        if folder.names or len(folder.folders) != 1:
            return None
        folder = folder.inside(folder.folders[0])


def _the_one(archive: Archive) -> str:
    """The member that is the checkpoint. Raises UsageError, UnknownFormatError."""
    formats = [
        one for one in registry.all_formats() if not one.holds.single
    ]  # an array beside weights is no second one
    suffixes = tuple(dict.fromkeys(suffix for one in formats for suffix in one.suffixes))
    inner = tuple(suffix for one in registry.ARCHIVES for suffix in one.suffixes)
    found = [path for path in archive.members if path.lower().endswith(suffixes)]
    archives = [path for path in found if path.lower().endswith(inner)]
    files = [path for path in found if not path.lower().endswith(inner)]
    files = files or ([] if archives else _by_bytes(archive))
    if len(files) == 1:
        return files[0]
    home = archive.source.path
    if files:
        raise UsageError(
            f"there are {len(files):,} checkpoints in this archive", path=home,
            hint=f"name one of them, such as {home / files[0]}", details=first_of(files, MOST_NAMES),
        )  # fmt: skip
    if archives:
        raise UnknownFormatError(
            f"there is no checkpoint in this archive but another archive: {quoted(archives)}",
            path=home, hint="unpack this one, and name that",
        )  # fmt: skip
    if not archive.members:
        raise UnknownFormatError("there is nothing in this archive", path=home, hint="pack it again")
    raise UnknownFormatError(
        f"no file in this archive is called as a checkpoint is: {quoted(archive.members)}",
        path=home, hint=f"if one of them is, name it: {home / next(iter(archive.members))}",
    )  # fmt: skip


def _by_bytes(archive: Archive) -> list[str]:
    """Members that some format claims, where their names say nothing; compressed ones of a zip would have to be
    inflated.
    """
    packed = archive.kind == "zip"
    found = [path for path, one in archive.members.items() if one.size and not (packed and one.compressed)][:MOST_ASKED]
    known = {path: claimed(archive.open(path)) for path in found if not path.endswith(TEXTS)}
    return [path for path, one in known.items() if one is not None and not one.holds.single]
