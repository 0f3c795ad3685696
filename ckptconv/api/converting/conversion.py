"""What a conversion reports: before the first byte is written, in a dry run, and after the last byte."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.converting.consent import refuse_overflow
from ckptconv.api.converting.plan import plan_moves
from ckptconv.api.editing.dialects import untranslated_findings
from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.edits.name_rule import GGUF
from ckptconv.formats.targets import preflight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckptconv.api.converting.companions import Companions
    from ckptconv.api.converting.destination import Destination
    from ckptconv.api.converting.made_files import MadeFiles
    from ckptconv.api.converting.order import Order
    from ckptconv.api.converting.plan import Move
    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.api.running.comparing import Verification
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import Format, WriteResult


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did, or with `dry_run` would have done.

    losses:   what the target cannot give back; all of it was agreed to, unless this was a dry run.
    findings: what else a user should know.
    digest:   the content digest, if the written file records one.
    plan:     in a dry run, what happens to every tensor.
    files:    the files beside the target, which `with_files` copies, or which are made from a GGUF's metadata.
    verification: what `verify` found, if it was asked for.
    """

    source: Path
    target: Path
    source_format: str
    target_format: str
    tensors: int
    nbytes: int
    losses: list[Finding] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    digest: str | None = None
    plan: list[Move] = field(default_factory=list)
    verification: Verification | None = None
    files: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Json]:
        """The conversion as ``convert --json`` prints it."""
        document: dict[str, Json] = {
            "source": str(self.source),
            "target": str(self.target),
            "tensors": self.tensors,
            "nbytes": self.nbytes,
            "losses": [loss.to_dict() for loss in self.losses],
            "findings": [finding.to_dict() for finding in self.findings],
        }
        if self.files:
            document["files"] = [str(path) for path in self.files]
        if self.plan:
            document["plan"] = [move.to_dict() for move in self.plan]
        if self.verification:
            document["verification"] = self.verification.to_dict()
        return document | ({"digest": self.digest} if self.digest else {})


def forecast(
    order: Order, prepared: Prepared, place: Destination, companions: Companions | MadeFiles | None
) -> Conversion:
    """What is known before the first byte is written."""
    checkpoint, wanted, source = prepared.checkpoint, place.format, order.request.source
    keeps_graph = any(finding.code == "template" for finding in prepared.findings)
    if companions is None:
        file_findings = [*place.left_behind(source), *_config_findings(prepared), *_unmade_findings(order, prepared)]
    else:
        file_findings = companions.findings
    return Conversion(
        source=Path(source),
        target=place.path,
        source_format=prepared.edited.format,
        target_format=wanted.name,
        tensors=len(checkpoint),
        nbytes=0,
        losses=[*preflight.losses(checkpoint, wanted), *_unheld_blocks(prepared, wanted)],
        findings=[
            *prepared.findings,
            *_checkpoint_findings(checkpoint, wanted, keeps_graph=keeps_graph),
            *_integer_findings(checkpoint, wanted),
            *untranslated_findings(prepared.edited, wanted, order.edits),
            *place.findings,
            *file_findings,
        ],
        files=[place.path.parent / name for name in companions.names] if companions is not None else [],
    )


def _integer_findings(checkpoint: Checkpoint, wanted: Format) -> list[Finding]:
    """A finding if quantized weights that the notes know stay as they are stored, and neither a record nor their type
    will say so.
    """
    count = len(checkpoint.notes.quantized)
    if not count or wanted.holds.metadata == "record" or wanted.graph:
        return []
    what = plural(count, "weight is", "weights are")
    message = f"{what} {checkpoint.notes.quantized[0].called}, which {wanted.name} does not say: they stay as stored"
    return [Finding("quantized", "info", "", message, hint="--dequantize makes plain weights of them")]


def dry_run_result(result: Conversion, prepared: Prepared, place: Destination, progress: Progress | None) -> Conversion:
    """The result of a dry run. Reads the tensors that would be cast."""
    checkpoint = prepared.checkpoint
    plan = plan_moves(prepared.source, checkpoint, prepared.moves, place.file_of(checkpoint))
    overflows, cast_findings = _cast_losses(prepared, progress, read=True)
    return replace(
        result,
        nbytes=sum(tensor.info.nbytes for tensor in stored_tensors(checkpoint).values()),
        losses=[*result.losses, *overflows],
        findings=[*result.findings, *cast_findings],
        plan=plan,
    )


def written_result(
    result: Conversion, prepared: Prepared, written: WriteResult, allowed: Collection[str]
) -> Conversion:
    """The result with what is known once the values have been written. Raises LossError if that needs consent."""
    overflows, cast_findings = _cast_losses(prepared)
    refuse_overflow(overflows, allowed)
    digest_findings = _changed_digest_findings(prepared.checkpoint, written)
    return replace(
        result,
        nbytes=written.nbytes,
        digest=written.digest,
        losses=[*result.losses, *overflows],
        findings=[*result.findings, *written.findings, *cast_findings, *digest_findings],
    )


def _cast_losses(
    prepared: Prepared, progress: Progress | None = None, *, read: bool = False
) -> tuple[list[Finding], list[Finding]]:
    """`casts.cast_losses`; with `read`, reads the values first, as they have not passed yet."""
    if not prepared.is_edited:  # so that a plain conversion does not import `casts`
        return [], []
    from ckptconv.api.converting.casts import cast_losses, read_casts

    if read:
        read_casts(prepared.checkpoint, progress)
    return cast_losses(prepared.checkpoint)


def _unheld_blocks(prepared: Prepared, wanted: Format) -> Iterable[Finding]:
    if not prepared.is_edited:
        return ()
    from ckptconv.api.converting.casts import unheld_blocks

    return unheld_blocks(prepared.checkpoint, wanted)


def _config_findings(prepared: Prepared) -> Iterable[Finding]:
    """What a configuration would have to say about the tensors; none is written beside them."""
    if not prepared.is_edited:
        return ()
    from ckptconv.api.editing.quantize import config_finding

    return config_finding(prepared.checkpoint)


def _unmade_findings(order: Order, prepared: Prepared) -> Iterable[Finding]:
    """A finding if a GGUF is translated, and none of the files that its metadata gives are asked for."""
    if GGUF in order.edits.dialects and prepared.source.format.startswith(GGUF) and order.format.dialect != GGUF:
        message = f"{CONFIG} and the tokenizer, which its metadata gives, are not written: a folder as DST gets them"
        yield Finding("left-behind", "info", CONFIG, message, hint="--with-files")


def _changed_digest_findings(checkpoint: Checkpoint, written: WriteResult) -> list[Finding]:
    """A warning if the source records a digest, and what was written has another one."""
    recorded = checkpoint.notes.digest
    if recorded is None or written.digest in (None, recorded):
        return []
    message = (
        "the source is not what its recorded digest says: it was changed since by something that does not renew the "
        "digest, or damaged; the target records that of what it holds"
    )
    return [Finding("digest", "warning", "", message, recorded, written.digest)]


def stored_tensors(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """All tensors that are written: of a tie, only the first."""
    tied = checkpoint.tied_to
    return {name: tensor for name, tensor in checkpoint.all_tensors.items() if name not in tied}


def _checkpoint_findings(checkpoint: Checkpoint, wanted: Format, *, keeps_graph: bool) -> list[Finding]:
    """What was noticed while reading the checkpoint, and what the target's format notices about it.

    keeps_graph: the target has the source's graph, so that the finding about leaving it behind does not apply.
    """
    findings = [finding for finding in checkpoint.findings if not (keeps_graph and finding.code == "graph")]
    findings += wanted.notices_for(checkpoint)
    if checkpoint.extras and wanted.holds.extras and wanted.holds.metadata == "record":
        count = len(checkpoint.extras)
        tensors, are, them = ("1 tensor", "is", "it") if count == 1 else (f"{count:,} tensors", "are", "them")
        message = f"{tensors} outside of the state_dict {are} carried along; --bare leaves {them} out"
        findings.append(Finding("extras", "info", "", message))
    if not checkpoint.all_tensors:
        findings.append(Finding("no-tensors", "warning", "", "the source holds no tensor at all"))
    return findings
