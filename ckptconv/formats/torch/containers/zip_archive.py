"""Reader of torch.save's zip archive (torch 1.6 and later).

    NAME/data.pkl               the pickled object; its tensors refer to storages by key
    NAME/data/KEY               one storage each: the elements as they lay in memory, 64-byte aligned
    NAME/byteorder              "little" or "big", of every storage; absent: little
    NAME/version                "3"; NAME/.format_version, NAME/.storage_alignment, NAME/.data/…: not needed
    NAME/ckptconv/notes.json    ours, see `ckptconv.formats.torch.writer.write`

NAME is whatever the file was called when it was saved. Source: torch/serialization.py (`_save`, `_load`),
caffe2/serialize/inline_container.cc.

TorchScript archives and torch.export's (`programs`) are formats of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.metadata import is_too_deep
from ckptconv.core.spelling import from_json
from ckptconv.errors import CkptconvError, CorruptFileError
from ckptconv.formats.sets.shard_names import lone_shard_findings
from ckptconv.formats.torch.containers.embedded import unfold_embedded
from ckptconv.formats.torch.containers.saved import check_numpys, is_unfinished, open_saved, root_of
from ckptconv.formats.torch.containers.slice_files import others_beside
from ckptconv.formats.torch.pickle import Budget
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.roots import plant
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.io.source import Source

NOTES_RECORD = "ckptconv/notes.json"


def claims(source: Source) -> bool:
    """Whether this is a zip archive with a ``data.pkl`` one level down, and no ``constants.pkl`` of TorchScript; or one
    that torch.save began.
    """
    try:
        archive = ZipArchive.of(source)
        root = root_of(archive)
        return is_unfinished(archive) if root is None else root + "constants.pkl" not in archive.entries
    except CorruptFileError:
        return True  # it starts as a zip; reading it will say what is wrong
    except CkptconvError:
        return False


def read(source: Source) -> Checkpoint:
    """Open the archive: its directory, its pickle and the storages' local headers; no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model hangs on a call).
    """
    return opened(source, (*others_beside(source.path), *lone_shard_findings(source.path)))


def opened(source: Source, findings: tuple[Finding, ...] = ()) -> Checkpoint:
    """The archive, whatever lies beside it. Raises as `read`."""
    archive = ZipArchive.of(source)
    check_numpys(archive, source)
    saved = open_saved(archive)
    embedded = unfold_embedded(saved.value, saved.machine)
    budget = Budget(saved.size + embedded.size)
    return assemble(
        plant(saved.value, budget), embedded.place(saved.placer.place), budget, format="torch",
        machines=[saved.machine], within=embedded.machines, file=source, arch=_arch(archive, saved.root),
        findings=(*findings, *embedded.findings),
    )  # fmt: skip


def _arch(archive: ZipArchive, root: str) -> MetaNode:
    name = root + NOTES_RECORD
    if name not in archive.entries:
        return None
    try:
        arch = from_json(strict_json.loads(archive.read(name, MAX_PICKLE_BYTES)).get("arch"))
        if is_too_deep(arch):
            raise ValueError("it is nested too deeply")
        return arch
    except (ValueError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"the record {NOTES_RECORD} is malformed: {error}") from error
