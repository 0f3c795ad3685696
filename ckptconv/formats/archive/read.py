"""Reader of archives with one checkpoint inside, in any other format.

The checkpoint is the first of these that the archive has:

    the file that TorchServe's manifest names
    the whole archive, or the only folder in it, if a format claims that as a folder
    the only file with a checkpoint's suffix; without such names, the only file that a format claims by its bytes

If there are several, they are listed; each can be named as if the archive were a folder: ``archive.zip/policy.pth``.
Archives in archives are not opened. `ckptconv.io.archive` says what is refused.

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
from ckptconv.formats.detect import detect, find_format
from ckptconv.io.archive import Archive
from ckptconv.io.archive_kinds import is_program

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import Program
    from ckptconv.formats.base import Format
    from ckptconv.io.archive import MemberFolder
    from ckptconv.io.source import Source

NAME = "archive"

MAX_LISTED = 12
"""The most members that an error lists."""

MAX_EXAMINED = 100
"""The most members whose bytes are examined if no name tells which is the checkpoint."""


def read(source: Source) -> Checkpoint:
    """Open the archive: read its directory, and open the checkpoint in it with its format's reader.

    Raises UsageError if there are several, UnknownFormatError if there is none, and what the readers raise.
    """
    checkpoint = _read(source)
    if is_program(source):
        message = "it is a program as well, which is not looked at: what it does when it is started is not said here"
        checkpoint.findings = (Finding("program", "warning", "", message), *checkpoint.findings)
    return checkpoint


def _read(source: Source) -> Checkpoint:
    archive = Archive.of(source)
    manifest = torchserve.Manifest.of(archive)
    if manifest is not None:
        return open_file(archive, manifest.file, NAME, manifest.programs(archive))
    folder = _find_folder(archive)
    if folder is not None:
        return open_folder(archive, *folder, NAME)
    return open_file(archive, _find_file(archive), NAME)


def open_file(archive: Archive, path: str, format: str, programs: tuple[Program, ...] = ()) -> Checkpoint:
    """Open a member as the archive's checkpoint. Raises what its reader raises, with its path.

    format:   the name of the archive's own format.
    programs: what else loading the archive would run.
    """
    member = archive.open(path)
    with located(member.path):
        inner = detect(member).read(member)
    found = contained(inner, archive, format, {path: MODEL}, documents(archive, (path,)), programs)
    packed = archive.members[path].compressed
    how = f", inflated into a temporary file of {archive.members[path].size:,} bytes" if packed else ""
    found.findings = (Finding("member", "info", path, f"{path!r} is read, as {inner.format}{how}"), *found.findings)
    return found


def open_folder(
    archive: Archive, folder: MemberFolder, inner: Format, format: str, programs: tuple[Program, ...] = ()
) -> Checkpoint:
    """Open a folder as the archive's checkpoint, with its format `inner`. Raises what its reader raises.

    format:   the name of the archive's own format.
    programs: what else loading the archive would run.
    """
    checkpoint = inner.read(folder)
    used = folder.used
    uses = dict.fromkeys(used, MODEL)
    found = contained(checkpoint, archive, format, uses, documents(archive, uses), programs)
    where = f"the folder {folder.inner!r}" if folder.inner else "all of it"
    if len(used) == 1:
        where = repr(used[0])
    message = f"{where} is read, as {checkpoint.format}"
    found.findings = (Finding("member", "info", folder.inner, message), *found.findings)
    return found


def _find_folder(archive: Archive) -> tuple[MemberFolder, Format] | None:
    """The archive itself, or the only folder in it (and so on), if a format claims it; and that format."""
    folder = archive.folder("")
    while True:
        one = find_format(folder)
        if one is not None:
            return folder, one
        if folder.names or len(folder.folders) != 1:
            return None
        folder = folder.inside(folder.folders[0])


def _find_file(archive: Archive) -> str:
    """The member that is the checkpoint. Raises UsageError, UnknownFormatError."""
    # formats of a single array do not count: an array beside weights is not a second checkpoint
    formats = [format for format in registry.all_formats() if not format.holds.single]
    suffixes = tuple(dict.fromkeys(suffix for format in formats for suffix in format.suffixes))
    archive_suffixes = tuple(suffix for format in registry.ARCHIVES for suffix in format.suffixes)
    found = [path for path in archive.members if path.lower().endswith(suffixes)]
    archives = [path for path in found if path.lower().endswith(archive_suffixes)]
    files = [path for path in found if not path.lower().endswith(archive_suffixes)]
    if not files and not archives:
        files = _find_by_bytes(archive)
    if len(files) == 1:
        return files[0]
    home = archive.source.path
    if files:
        raise UsageError(
            f"there are {len(files):,} checkpoints in this archive", path=home,
            hint=f"name one of them, such as {home / files[0]}", details=first_of(files, MAX_LISTED),
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


def _find_by_bytes(archive: Archive) -> list[str]:
    """Members that a format claims by their bytes. Compressed members of a zip are left out: each must be inflated."""
    is_zip = archive.kind == "zip"
    members = archive.members.items()
    found = [path for path, member in members if member.size and not (is_zip and member.compressed)][:MAX_EXAMINED]
    formats = {path: find_format(archive.open(path)) for path in found if not path.endswith(TEXTS)}
    return [path for path, format in formats.items() if format is not None and not format.holds.single]
