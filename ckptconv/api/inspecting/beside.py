"""Inspects the other files in a checkpoint's folder or archive: what loading the folder would run.

Every file that may hold a pickle, in the folder and below it, is opened as if it were inspected by itself; what it
would run or import counts for the folder. So does what configurations name (`ckptconv.api.inspecting.documents`). An
archive counts as the folder that it unpacks to. That holds for an archive in a folder as well, but not for one inside
another archive. A checkpoint that is inspected by its file name is inspected alone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.api.inspecting.documents import Documents
from ckptconv.api.inspecting.embedded import inspect_embedded_files
from ckptconv.api.inspecting.unreadable import CONTAINER_FORMATS, programs_in_unreadable
from ckptconv.api.inspecting.uses import (
    UNFOLLOWED,
    OtherFiles,
    join_where,
    not_looked_at,
    uses_of,
    uses_of_programs,
)
from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import CkptconvError, FileAccessError
from ckptconv.formats import registry
from ckptconv.formats.archive import nemo_config
from ckptconv.formats.beside import files, hub
from ckptconv.formats.beside.homes import place_of
from ckptconv.formats.detect import detect
from ckptconv.formats.flax import thinc
from ckptconv.formats.tensorflow import saved_model
from ckptconv.formats.tfjs import read as tfjs
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from ckptconv.api.inspecting.uses import OpaqueUse
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import GlobalUse
    from ckptconv.formats.beside.places import Place

_HARMLESS_FORMATS = frozenset(["safetensors", "safetensors-sharded", "safetensors-slices", "openvino", "ncnn", "flax"])
"""Formats whose files run nothing. Whether such a file is damaged does not matter here."""

_LIBRARY_SUFFIXES = (".so", ".dll", ".dylib", ".pyd")

_DOCUMENT_READ_BY_FORMAT = {"tensorflow": saved_model.GRAPH, "tfjs": tfjs.USUAL, nemo_config.NAME: nemo_config.CONFIG}
"""The document that the reader of each of these formats has inspected already."""


class _FileUses(NamedTuple):
    """What a file would run, the globals that its pickles name, and whether its contents were examined."""

    uses: list[OpaqueUse]
    globals: Sequence[GlobalUse] = ()
    examined: bool = False


def inspect_beside(place: Place, checkpoint: Checkpoint) -> OtherFiles:
    """Inspect the files of the folder or archive that `checkpoint` was opened from.

    Raises LimitError for too many files, or a configuration that is too large. For an archive, also raises what opening
    its members raises: what cannot be inspected there is refused, since unpacking the archive may reveal it.
    """
    own = uses_of(checkpoint) + inspect_embedded_files(checkpoint, place.path).uses
    opened = place.opened(checkpoint)
    done = {_DOCUMENT_READ_BY_FORMAT.get(checkpoint.format, "")}
    if len(opened) == 1 and isinstance(checkpoint.file, Source):
        done |= opened
    return inspect_files(place, reported={(use.node.name, use.node.how) for use in own}, opened=opened, done=done)


def inspect_files(
    place: Place,
    *,
    reported: Collection[tuple[str, str]] = (),
    opened: Collection[str] = (),
    done: Collection[str] = (),
) -> OtherFiles:
    """Inspect every file of a folder or archive, except those that are `done`.

    opened:   the files that a checkpoint was read from.
    reported: the (name, how) of the objects reported for that checkpoint; `opened` files do not repeat these.

    Raises as `inspect_beside` does.
    """
    listing = place.listing()
    found, paths = OtherFiles(), listing.paths
    found.findings += [not_looked_at(path, why) for path, why in listing.skipped.items()]
    known = frozenset(paths)
    documents = Documents(place, known, found.findings)
    examined: list[str] = []
    for path in paths:
        if path in done:
            continue
        try:
            found.uses += uses_of_programs(documents.programs_in(path))
            if _is_part_of_listed_folder(path, known, opened):
                continue
            inspect = _inspect_listing if path.rpartition("/")[2] == files.LISTING else _inspect_file
            result = inspect(place, path, found.findings)
        except FileAccessError as error:
            found.findings.append(not_looked_at(path, error.message))
            continue
        if path in opened:
            found.uses += [use for use in result.uses if (use.node.name, use.node.how) not in reported]
        else:
            found.uses += result.uses
            if result.examined:
                examined.append(path)
        found.globals += result.globals
    found.uses += uses_of_programs(hub.scripts_in(known))
    found.findings += _summary_findings(examined, paths)
    return found


def _is_part_of_listed_folder(path: str, known: frozenset[str], opened: Collection[str]) -> bool:
    """Whether the file belongs to a torch.distributed.checkpoint folder, all of whose files one reader reads."""
    home, slash, name = path.rpartition("/")
    if name == files.LISTING:
        return path in opened
    return name.endswith(".distcp") and f"{home}{slash}{files.LISTING}" in known


def _inspect_listing(place: Place, path: str, findings: list[Finding]) -> _FileUses:
    """Inspect a torch.distributed.checkpoint folder by its listing; the listing alone if it is not such a folder."""
    home = path.removesuffix(files.LISTING)
    try:
        with registry.by_name("torch-dcp").read(place.folder(home)) as checkpoint:
            uses, globals_ = _uses_and_globals(checkpoint, place.path / path)
            return _FileUses(_uses_in(path, uses), globals_, examined=True)
    except CkptconvError:
        if place.is_spent:
            raise
        return _inspect_file(place, path, findings)


def _inspect_file(place: Place, path: str, findings: list[Finding]) -> _FileUses:
    with place.open(path) as source:
        if thinc.is_one(source):
            return _inspect_thinc(place, path, source, findings)
        if files.may_hold_program(source):
            return _inspect_source(place, path, source, findings)
        return _FileUses([])


def _inspect_thinc(place: Place, path: str, source: Source, findings: list[Finding]) -> _FileUses:
    """Inspect the files inside a Thinc model, which Thinc passes to the libraries that they belong to."""
    try:
        inner_files = thinc.files_in(source)
    except CkptconvError as error:
        if place.is_spent:
            raise
        if not thinc.mentions_shims(source):
            return _FileUses([])
        node = Opaque("torch.load", "called", (UNFOLLOWED + error.message,))
        return _FileUses(uses_of_programs([Program(path, node, "Thinc")]), examined=True)
    results = [_inspect_source(place, path, inner, findings) for inner in inner_files]
    uses = [use for result in results for use in result.uses]
    globals_ = [name for result in results for name in result.globals]
    return _FileUses(uses, globals_, examined=bool(results))


def _inspect_source(place: Place, path: str, source: Source, findings: list[Finding]) -> _FileUses:
    """Inspect one open file of any format, and whatever lies in it if it is an archive."""
    format_name = ""
    try:
        format = detect(source)
        format_name = format.name
        if format_name in _HARMLESS_FORMATS:
            return _FileUses([])
        with format.read(source) as checkpoint:
            return _inspect_checkpoint(checkpoint, source, path, findings)
    except CkptconvError as error:
        if place.is_spent:
            raise
        if format_name in CONTAINER_FORMATS:
            with suppress(CkptconvError):
                return _FileUses(_inspect_archive(source, path, findings), examined=True)
        return _FileUses(uses_of_programs(programs_in_unreadable(source, path, format_name, error, findings)))


def _inspect_checkpoint(checkpoint: Checkpoint, source: Source, path: str, findings: list[Finding]) -> _FileUses:
    """Inspect a checkpoint, and the other files in its archive if it lies in one."""
    uses, globals_ = _uses_and_globals(checkpoint, source.path)
    inner = place_of(source.path, checkpoint)
    if inner is not None:
        beside = inspect_beside(inner, checkpoint)
        uses, globals_ = uses + beside.uses, globals_ + beside.globals
        findings += _findings_in(path, beside.findings)
    return _FileUses(_uses_in(path, uses), globals_, examined=True)


def _inspect_archive(source: Source, path: str, findings: list[Finding]) -> list[OpaqueUse]:
    """Inspect an archive without a checkpoint, or with several. Raises as `inspect_files` does."""
    from ckptconv.formats.beside.in_archive import InArchive
    from ckptconv.io.archive import Archive

    inside = inspect_files(InArchive(Archive.of(source)))
    findings += _findings_in(path, inside.findings)
    return _uses_in(path, inside.uses)


def _uses_and_globals(checkpoint: Checkpoint, path: Path) -> tuple[list[OpaqueUse], list[GlobalUse]]:
    """What a checkpoint and the files embedded in its metadata would run, and the globals that they name."""
    embedded = inspect_embedded_files(checkpoint, path)
    return uses_of(checkpoint) + embedded.uses, [*checkpoint.notes.globals, *embedded.globals]


def _uses_in(path: str, uses: list[OpaqueUse]) -> list[OpaqueUse]:
    """The uses of a file, with its path before where each stands."""
    return [replace(use, where=join_where(path, use.where)) for use in uses]


def _findings_in(path: str, findings: list[Finding]) -> Iterator[Finding]:
    """The findings about the members of an archive, with its path before each."""
    for finding in findings:
        yield replace(finding, where=f"{path}/{finding.where}", message=f"{path}: {finding.message}")


def _summary_findings(examined: list[str], paths: list[str]) -> Iterator[Finding]:
    if examined:
        message = f"looked at, for what they would run: {quoted(examined)}"
        yield Finding("beside", "info", examined[0], message)
    scripts = [path for path in paths if path.endswith((".py", *_LIBRARY_SUFFIXES))]
    if scripts:
        message = f"the folder contains programs, which run if something asks for them: {quoted(scripts)}"
        yield Finding("program", "info", scripts[0], message)
