"""The members of an archive around the checkpoint in it.

Short texts with the usual suffixes become metadata, under their path in the archive. All other members stay behind, and
a finding names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import StateDict
from ckptconv.core.names import free_key
from ckptconv.core.notes import MemberNote
from ckptconv.core.report import Finding
from ckptconv.core.text import plural, quoted
from ckptconv.io.archive import Member
from ckptconv.io.limits import MAX_DOCUMENT, MAX_DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import Program
    from ckptconv.core.tensor import ByteSpan, LazyTensor
    from ckptconv.io.archive import Archive

TEXTS = (".json", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".txt")

Use = str
"""What a member became in the checkpoint: `MODEL`, `EXTRAS`, `METADATA`, or "" if it stays in the archive."""

MODEL, EXTRAS, METADATA = "model", "extras", "metadata"

_STAYS_BEHIND = "members"
"""The code of the finding that names the members that stay."""


def documents(archive: Archive, model: Collection[str]) -> dict[str, str]:
    """The text members by path, except those in `model`. Raises CorruptFileError, LimitError."""
    found: dict[str, str] = {}
    left = MAX_DOCUMENTS
    for path, entry in archive.members.items():
        if path in model or not path.lower().endswith(TEXTS) or entry.size > min(MAX_DOCUMENT, left):
            continue
        left -= entry.size
        try:
            found[path] = archive.text(path, MAX_DOCUMENT).decode("utf-8")
        except UnicodeDecodeError:
            continue  # it counts as a member that stays behind
    return found


def contained(
    inner: Checkpoint, archive: Archive, format: str, uses: Mapping[str, Use], texts: Mapping[str, MetaNode],
    programs: tuple[Program, ...] = (),
) -> Checkpoint:  # fmt: skip
    """The checkpoint of an archive: `inner` with `texts` as metadata and the archive's members in its notes. `uses`
    says what became of members that are not texts. Closing the checkpoint closes the archive.
    """
    taken = inner.root if isinstance(inner.root, dict) else {}
    whole = inner.with_metadata({free_key(path, taken): text for path, text in texts.items()})
    uses = {**dict.fromkeys(texts, METADATA), **uses}
    members = tuple(MemberNote(path, entry.size, uses.get(path, "")) for path, entry in archive.members.items())
    notes = replace(
        whole.notes,
        source=format if whole.notes.source == inner.format else whole.notes.source,
        members=members,
        programs=(*whole.notes.programs, *programs),
    )
    return whole.replaced(
        tensors={name: _checked(tensor) for name, tensor in whole.items()},
        extras={name: _checked(tensor) for name, tensor in whole.extras.items()},
        format=format,
        notes=notes,
        findings=(*whole.findings, *_members_left(members)),
        file=archive.source,
    )


def without_copied(checkpoint: Checkpoint, paths: Collection[str]) -> Checkpoint:
    """A checkpoint made by `contained`, without the texts at `paths`, which are copied as files instead."""
    root = checkpoint.root
    if isinstance(root, dict) and not root.keys().isdisjoint(paths):
        wrapped = next(iter(root)) in paths  # texts come first only if `contained` put a bare state_dict behind them
        root = {key: node for key, node in root.items() if key not in paths or not isinstance(node, str)}
        if wrapped and [*root] == ["state_dict"] and isinstance(root["state_dict"], StateDict):
            root = root["state_dict"]
    findings = [finding for finding in checkpoint.findings if finding.code != _STAYS_BEHIND]
    members = [member for member in checkpoint.notes.members if member.name not in paths]
    notes = checkpoint.notes if root is checkpoint.root else replace(checkpoint.notes, digest=None)
    return checkpoint.replaced(root=root, notes=notes, findings=(*findings, *_members_left(members)))


def _members_left(members: Iterable[MemberNote]) -> Iterable[Finding]:
    left = [member.name for member in members if not member.use]
    if left:
        stay = plural(len(left), "member of the archive stays", "members of the archive stay")
        yield Finding(_STAYS_BEHIND, "info", left[0], f"{stay} behind: {quoted(left)}")


def _checked(tensor: LazyTensor) -> LazyTensor:
    """The tensor, checked by the checksum of the archive member that it lies in if its own format has none."""
    spans: list[ByteSpan] = [*tensor.depends]
    if tensor.span is not None:
        spans.append(tensor.span)
    if tensor.placement is not None:
        spans.append(tensor.placement.storage.span)
    wholes = [
        span.file.whole
        for span in spans
        if span.crc32 is None and isinstance(span.file, Member) and span.file.whole.crc32 is not None
    ]
    return replace(tensor, depends=tuple(dict.fromkeys((*tensor.depends, *wholes)))) if wholes else tensor
