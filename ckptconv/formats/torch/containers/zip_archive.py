"""Reader for torch.save's zip archive (torch 1.6 and later).

    NAME/data.pkl               the pickled object; its tensors refer to storages by key
    NAME/data/KEY               a storage: the elements as they were in memory, 64-byte aligned
    NAME/byteorder              "little" or "big", for all storages; little if absent
    NAME/version                "3"; NAME/.format_version, NAME/.storage_alignment, NAME/.data/…: not needed
    NAME/ckptconv/notes.json    ours, see `ckptconv.formats.torch.writer.write`

NAME is what the file was called when it was saved. Source: torch/serialization.py (`_save`, `_load`),
caffe2/serialize/inline_container.cc.

GPT-SoVITS writes two digits over the first two bytes of the whole file. Source: GPT_SoVITS/process_ckpt.py (`my_save2`,
`head2version`), of its main branch.

TorchScript and torch.export archives (`programs`) are formats of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.metadata import is_too_deep
from ckptconv.core.report import Finding
from ckptconv.core.spelling import from_json
from ckptconv.errors import CkptconvError, CorruptFileError
from ckptconv.formats.sets.shard_names import lone_shard_findings
from ckptconv.formats.torch.containers.embedded import unfold_embedded
from ckptconv.formats.torch.containers.saved import is_unfinished, open_saved, refuse_npz, root_of
from ckptconv.formats.torch.containers.slice_files import others_beside
from ckptconv.formats.torch.pickle import Budget
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.source import Source

VOICE_MODELS = {
    "00": "v1", "01": "v2", "02": "v3", "03": "v3, a LoRA", "04": "v4, a LoRA", "05": "v2Pro", "06": "v2ProPlus"
}  # fmt: skip
"""GPT-SoVITS' versions by the digits at the start of a file."""

NOTES_RECORD = "ckptconv/notes.json"


def claims(source: Source) -> bool:
    """Whether this is a zip archive with a ``data.pkl`` one level down and without TorchScript's ``constants.pkl``, or
    one that torch.save began and did not finish.
    """
    try:
        archive = ZipArchive.of(source)
        root = root_of(archive)
        return is_unfinished(archive) if root is None else root + "constants.pkl" not in archive.entries
    except CorruptFileError:
        return True  # it starts like a zip; `read` will say what is wrong with it
    except CkptconvError:
        return False


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads its directory, its pickle and the storages' local headers, but no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model depends on a call).
    """
    checkpoint = open_archive(source, (*others_beside(source.path), *lone_shard_findings(source.path)))
    if not checkpoint.all_tensors:
        checkpoint.findings = (*checkpoint.findings, *_weights_beside(source.path))
    return checkpoint


def _weights_beside(path: Path) -> list[Finding]:
    """A finding if the weights are in a file beside this one, as darts writes ``model.pt`` and ``model.pt.ckpt``."""
    weights = path.with_name(f"{path.name}.ckpt")
    if not weights.is_file():
        return []
    return [Finding("elsewhere", "info", path.name, f"its weights are in a file of their own: {weights.name!r}")]


def open_archive(source: Source, findings: tuple[Finding, ...] = ()) -> Checkpoint:
    """The archive, whatever files are beside it. Raises what `read` raises."""
    archive = ZipArchive.of(source)
    refuse_npz(archive, source)
    saved = open_saved(archive)
    embedded = unfold_embedded(saved.value, saved.machine)
    budget = Budget(saved.size + embedded.size)
    return assemble(
        build_tree(saved.value, budget), embedded.place(saved.placer.place), budget, format="torch",
        machines=[saved.machine], within=embedded.machines, file=source, arch=_arch(archive, saved.root),
        findings=(*findings, *embedded.findings, *_stamp_findings(archive)),
    )  # fmt: skip


def _stamp_findings(archive: ZipArchive) -> list[Finding]:
    """A finding for a file of GPT-SoVITS that says its version where others have "PK"."""
    if not (stamp := archive.stamp):
        return []
    message = (
        f"GPT-SoVITS marked it as {VOICE_MODELS.get(stamp, 'an unknown version')}: it begins with {stamp!r} "
        "in place of 'PK', which torch.load refuses; what is written from it has no such mark"
    )
    return [Finding("stamped", "info", "", message, "PK", stamp)]


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
