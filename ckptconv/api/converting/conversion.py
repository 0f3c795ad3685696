"""What a conversion reports: before the first byte is written, in a dry run, and after the last."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.converting.consent import refuse_overflow
from ckptconv.api.converting.plan import plan_of
from ckptconv.api.editing.dialects import untranslated
from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.formats.targets import preflight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckptconv.api.converting.companions import Companions
    from ckptconv.api.converting.destination import Destination
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
    findings: what else a person should know.
    digest:   the content digest, if the written file records one.
    plan:     in a dry run, what happens to every tensor.
    verification: what `verify` found, if it was asked for.
    files:    the files that `with_files` puts beside it.
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


def foreseen(order: Order, made: Prepared, place: Destination, files: Companions | None) -> Conversion:
    """What is known before the first byte is written."""
    checkpoint, wanted, source = made.checkpoint, place.format, order.request.source
    return Conversion(
        source=Path(source), target=place.path, source_format=made.edited.format, target_format=wanted.name,
        tensors=len(checkpoint), nbytes=0, losses=[*preflight.losses(checkpoint, wanted), *_unheld(made, wanted)],
        findings=[
            *made.findings, *_findings(checkpoint, wanted, kept="template" in {one.code for one in made.findings}),
            *_left_unsaid(checkpoint, wanted), *untranslated(made.edited, wanted, order.edits), *place.findings,
            *((*place.left_behind(source), *_unsaid(made)) if files is None else files.findings),
        ],
        files=[place.path.parent / name for name in files.names] if files is not None else [],
    )  # fmt: skip


def _left_unsaid(checkpoint: Checkpoint, wanted: Format) -> list[Finding]:
    """A word where no record says which integers a graph made weights of, and their type does not either."""
    count = len(checkpoint.notes.quantized)
    if not count or wanted.holds.metadata == "record" or wanted.graph:
        return []
    what = plural(count, "weight is", "weights are")
    message = f"{what} {checkpoint.notes.quantized[0].called}, which {wanted.name} does not say: they stay integers"
    return [Finding("quantized", "info", "", message, hint="--dequantize makes plain weights of them")]


def planned(result: Conversion, made: Prepared, place: Destination, progress: Progress | None) -> Conversion:
    """What a dry run says; the values of tensors that are cast are looked at for it."""
    checkpoint = made.checkpoint
    plan = plan_of(made.source, checkpoint, made.moves, place.file_of(checkpoint))
    over, cast = _cast(made, progress, read=True)
    nbytes = sum(tensor.info.nbytes for tensor in stored_tensors(checkpoint).values())
    losses, findings = [*result.losses, *over], [*result.findings, *cast]
    return replace(result, nbytes=nbytes, losses=losses, findings=findings, plan=plan)


def completed(result: Conversion, made: Prepared, written: WriteResult, allowed: Collection[str]) -> Conversion:
    """The result with what is known once the values have been written. Raises LossError if that needs consent."""
    over, cast = _cast(made)
    refuse_overflow(over, allowed)
    findings = [*result.findings, *written.findings, *cast, *_renewed(made.checkpoint, written)]
    return replace(
        result, nbytes=written.nbytes, digest=written.digest, losses=[*result.losses, *over], findings=findings
    )


def _cast(
    made: Prepared, progress: Progress | None = None, *, read: bool = False
) -> tuple[list[Finding], list[Finding]]:
    """What casting lost, as `cast_losses` reports it; `read`: the values still have to be read for that."""
    if not made.is_edited:  # so that a plain conversion imports none of it
        return [], []
    from ckptconv.api.converting.casts import cast_losses, read_casts

    if read:
        read_casts(made.checkpoint, progress)
    return cast_losses(made.checkpoint)


def _unheld(made: Prepared, wanted: Format) -> Iterable[Finding]:
    if not made.is_edited:
        return ()
    from ckptconv.api.converting.casts import unheld_blocks

    return unheld_blocks(made.checkpoint, wanted)


def _unsaid(made: Prepared) -> Iterable[Finding]:
    """What a configuration has to say about the tensors, if no file beside them says it."""
    if not made.is_edited:
        return ()
    from ckptconv.api.editing.quantize import asked_of_config

    return asked_of_config(made.checkpoint)


def _renewed(checkpoint: Checkpoint, written: WriteResult) -> list[Finding]:
    """A finding if the source records a digest, and what was written has another."""
    recorded = checkpoint.notes.digest
    if recorded is None or written.digest in (None, recorded):
        return []
    message = (
        "the source is not what its recorded digest says: it was changed since by something that does not renew the "
        "digest, or damaged; the target records that of what it holds"
    )
    return [Finding("digest", "warning", "", message, recorded, written.digest)]


def stored_tensors(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """All tensors that are written: of tied ones, the first."""
    tied = checkpoint.tied_to
    return {name: tensor for name, tensor in checkpoint.all_tensors.items() if name not in tied}


def _findings(checkpoint: Checkpoint, wanted: Format, *, kept: bool) -> list[Finding]:
    """What is noticed about the checkpoint, and about it in that format. `kept`: a graph is, and does not stay
    behind.
    """
    findings = [one for one in checkpoint.findings if not (kept and one.code == "graph")]
    findings += wanted.notices_for(checkpoint)
    if checkpoint.extras and wanted.holds.extras and wanted.holds.metadata == "record":
        count = len(checkpoint.extras)
        what = ("1 tensor", "is", "it") if count == 1 else (f"{count:,} tensors", "are", "them")
        message = "{} outside of the state_dict {} carried along; --bare leaves {} out".format(*what)
        findings.append(Finding("extras", "info", "", message))
    if not checkpoint.all_tensors:
        findings.append(Finding("no-tensors", "warning", "", "the source holds no tensor at all"))
    return findings
