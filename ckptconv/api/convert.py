"""Converting a checkpoint into another file."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.asked import Request, pair_words, several, words_of
from ckptconv.api.consent import agreed, refuse, refuse_dependents, refuse_overflow
from ckptconv.api.destination import choose_format, settle, size_of_shards
from ckptconv.api.dialects import untranslated
from ckptconv.api.edits import Edits
from ckptconv.api.lora import Adapters
from ckptconv.api.open import open
from ckptconv.api.order import Order
from ckptconv.api.plan import plan_of
from ckptconv.api.prepare import prepare, without_extras
from ckptconv.core.report import Finding
from ckptconv.errors import FileAccessError, NotEquivalentError, located
from ckptconv.formats import registry
from ckptconv.formats.base import WriteOptions
from ckptconv.formats.targets import preflight
from ckptconv.io.source import CHECK_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ckptconv.api.companions import Companions
    from ckptconv.api.comparing import Verification
    from ckptconv.api.destination import Destination
    from ckptconv.api.open import PathText
    from ckptconv.api.plan import Move
    from ckptconv.api.prepare import Prepared
    from ckptconv.api.verified import Verifier
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.progress import Progress
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.quantizing import Quantizing
    from ckptconv.formats.base import Format, WriteResult
    from ckptconv.io.target import Target


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did, or with `dry_run` would have done.

    losses:   what the target cannot give back; all of it was agreed to, unless this was a dry run.
    findings: what a person should know besides.
    digest:   the content digest, where the written file records one.
    plan:     in a dry run, what becomes of every tensor.
    verification: what `verify` found, where it was asked for.
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


def convert(
    source: PathText,
    target: PathText,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    bare: bool = False,
    metadata: Mapping[str, MetaNode] | None = None,
    allow_loss: str | Collection[str] = (),
    arch: str | None = None,
    settings: Sequence[str] = (),
    with_params: bool = False,
    inputs: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    edits: Edits | None = None,
    shard_size: str | int | None = None,
    verify: bool = False,
    with_files: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert `source` into a new file `target`, whose format its suffix or `to_format` says; a new folder where the
    format is one.

        ckptconv.convert("model.pth", "model.safetensors")
        ckptconv.convert("training.ckpt", "half.safetensors", bare=True, edits=ckptconv.Edits(dtype="F16"))
        ckptconv.convert("model.pth", "model.gguf", allow_loss="metadata", dry_run=True).losses

    force:      replace an existing target.
    dry_run:    write nothing; list what would be lost. Tensors that are cast are read, for what overflows.
    bare:       the model's tensors alone, without metadata and extras.
    metadata:   top-level keys to set.
    allow_loss: a code, or codes, of losses that are agreed to: "metadata", "extras" (tensors outside of the model),
                "opaque" (objects that are not built, calls that are not made), "tie", "composite" (of several tensors
                one quantized or sparse), "dtype", "overflow", "all".

    arch:        the architecture that the source must fit, as in `validate`; the target remembers it as a note. Of
                 an adapter that is translated to llama.cpp's, the base's config.json, or the folder that it lies in.
    settings:    ``"name=value"`` params of that architecture, which outrank everything else.
    with_params: also write the architecture's required params into the metadata, as far as they are not there yet.
                 Without `arch` it is chosen by evidence.
    inputs:      ``"x:F32[N,3,224,224]"`` for each input of Python that `arch` names, where a graph is made of it.
    options:     the target format's own options by name, as ``ckptconv formats NAME`` lists them.
    edits:       what is done to the model's tensors on their way (`Edits`); `arch` is that of the result.
    shard_size:  ``"5GB"``, ``"2GiB"``, or bytes: more tensors than that are split into several files and an index; a
                 GGUF into files of which the first stands for all.
    verify:      run source and target before the target gets its name, as `verify` does; what edits change is changed
                 on purpose, so that the source is run with them. NotEquivalentError where they differ. `inputs` may
                 be given for any target then.

    with_files:  also put what lies beside the source's weights into the target's folder: configuration, tokenizer, chat
                 templates, modules of sentence-transformers'. A config.json says the new type then, and not that
                 weights are quantized that no longer are.

    Returns what was written, what of it was lost, and what a person should know besides.

    The target is written atomically: on any error it is as it was. Memory is constant in the size of the file.
    Raises LossError, UnsafeError, TargetExistsError, DamagedTensorError, MisfitError and others of CkptconvError.
    """
    allowed, size = agreed(allow_loss), size_of_shards(shard_size)
    wanted = choose_format(target, to_format, size)
    edits = edits or Edits()
    words = words_of({
        "--from": from_format, "--to": to_format, "--force": force, "--dry-run": dry_run, "--verify": verify,
        "--with-files": with_files, "--bare": bare, "--meta": pair_words(metadata or {}), "--allow-loss": allowed,
        "--with-params": with_params, "--shard-size": shard_size,
        "-O": [f"{key}={text}" for key, text in (options or {}).items()], "--input": several(inputs),
    })  # fmt: skip
    words = ("convert", fspath(source), fspath(target), *words, *edits.words)
    request = Request(source, arch, settings, inputs, words, from_format)
    order = Order(
        request=request, format=wanted, own=wanted.parse_options(options or {}), edits=edits,
        metadata=metadata or {}, bare=bare, with_params=with_params, verify=verify, shards=size is not None,
    )  # fmt: skip
    order.check()
    with (
        _source(source, target, from_format, progress) as opened,
        Adapters(order.edits.steps) as adapters,
    ):
        made = prepare(order, opened, adapters)
        files = _companions(source, order, opened, made) if with_files else None
        if files is not None:
            made = replace(made, checkpoint=files.left_to(made.checkpoint))
        place = settle(wanted, target, made.checkpoint, size, plain=made.plain)
        result = _foreseen(order, made, place, files)
        if made.checkpoint.extras and not place.format.holds.extras:
            made = without_extras(made)
        if files is not None:
            files.check(place.path, replace=force or dry_run)
        if not dry_run:
            refuse(result.losses, allowed, source, bare=bare)
            refuse_dependents(made.edited, preflight.losses(made.edited, place.format), source)
            place.check_source(source, opened)
            file = place.open(replace=force)
        with (
            _verifier(request, made.checkpoint, place.format) if verify else nullcontext() as verifier,
            _quantizing(made.checkpoint) if made.is_edited else nullcontext(),
        ):
            if dry_run:
                return _planned(result, made, place, progress)
            how = WriteOptions(
                plain=made.plain, progress=progress, own=order.own, graph=made.graph, write_as=_write_as(progress),
                shard_size=place.shard_size,
            )  # fmt: skip
            with located(source), file:
                written = place.format.write(made.checkpoint, file, how)
                result = _written(result, made, written, allowed)
                opened.check_unchanged()
                adapters.check_unchanged()
                if files is not None:
                    files.write(file)
                return _committed(result, file, written, verifier)


def _source(source: PathText, target: PathText, format: str | None, progress: Progress | None) -> Checkpoint:
    """The source, open. Where there is none, and the target is there, they may have changed places, which is said."""
    try:
        return open(source, format=format, progress=progress)
    except FileAccessError as error:
        if error.hint == CHECK_PATH and not os.path.lexists(source) and os.path.isfile(target):
            error.hint = (
                f"the source comes first: {shlex.join(['ckptconv', 'convert', fspath(target), fspath(source)])}"
            )
        raise


def _companions(source: PathText, order: Order, opened: Checkpoint, made: Prepared) -> Companions:
    from ckptconv.api.companions import companions_of  # few ask for it

    return companions_of(source, order.edits, opened, made.checkpoint)


def _foreseen(order: Order, made: Prepared, place: Destination, files: Companions | None) -> Conversion:
    """What is known before the first byte is written."""
    checkpoint, wanted, source = made.checkpoint, place.format, order.request.source
    return Conversion(
        Path(source), place.path, made.edited.format, wanted.name, len(checkpoint), 0,
        [*preflight.losses(checkpoint, wanted), *_unheld(made, wanted)],
        [
            *made.findings, *_findings(checkpoint, wanted, kept="template" in {one.code for one in made.findings}),
            *untranslated(made.edited, wanted, order.edits), *place.findings,
            *((*place.left_behind(source), *_unsaid(made)) if files is None else files.findings),
        ],
        files=[place.path.parent / name for name in files.names] if files is not None else [],
    )  # fmt: skip


def _verifier(request: Request, checkpoint: Checkpoint, wanted: Format) -> Verifier:
    from ckptconv.api.verified import Verifier

    return Verifier(request, checkpoint, wanted)


def _quantizing(checkpoint: Checkpoint) -> Quantizing:
    from ckptconv.edits.quantizing import Quantizing

    return Quantizing(_stored(checkpoint).values())


def _planned(result: Conversion, made: Prepared, place: Destination, progress: Progress | None) -> Conversion:
    """What a dry run says; the values of tensors that are cast are looked at for it."""
    checkpoint = made.checkpoint
    plan = plan_of(made.source, checkpoint, made.moves, place.file_of(checkpoint))
    over, cast = _cast(made, progress, read=True)
    nbytes = sum(tensor.info.nbytes for tensor in _stored(checkpoint).values())
    losses, findings = [*result.losses, *over], [*result.findings, *cast]
    return replace(result, nbytes=nbytes, losses=losses, findings=findings, plan=plan)


def _written(result: Conversion, made: Prepared, written: WriteResult, allowed: Collection[str]) -> Conversion:
    """The result with what is known once the values have passed. Raises LossError where that needs consent."""
    over, cast = _cast(made)
    refuse_overflow(over, allowed)
    findings = [*result.findings, *written.findings, *cast, *_renewed(made.checkpoint, written)]
    return replace(
        result, nbytes=written.nbytes, digest=written.digest, losses=[*result.losses, *over], findings=findings
    )


def _cast(
    made: Prepared, progress: Progress | None = None, *, read: bool = False
) -> tuple[list[Finding], list[Finding]]:
    """What casting lost, as `cast_losses` has it; `read`: the values are still to be read for it."""
    if not made.is_edited:  # so that a plain conversion imports none of it
        return [], []
    from ckptconv.api.casts import cast_losses, read_casts

    if read:
        read_casts(made.checkpoint, progress)
    return cast_losses(made.checkpoint)


def _unheld(made: Prepared, wanted: Format) -> Iterable[Finding]:
    if not made.is_edited:
        return ()
    from ckptconv.api.casts import unheld_blocks

    return unheld_blocks(made.checkpoint, wanted)


def _unsaid(made: Prepared) -> Iterable[Finding]:
    """What a configuration has to say of the tensors that no file beside them says."""
    if not made.is_edited:
        return ()
    from ckptconv.api.quantize import asked_of_config

    return asked_of_config(made.checkpoint)


def _committed(result: Conversion, target: Target, written: WriteResult, verifier: Verifier | None) -> Conversion:
    """Give the target its name, after it was verified where that was asked for."""
    if verifier is None:
        target.commit()
        return result
    with verifier.verified(target, written) as found:
        result = replace(result, verification=found)
        if not found.equivalent:
            errors = [f"{finding.code}: {finding.message}" for finding in found.findings]
            raise NotEquivalentError(result, path=target.path, details=errors)
        target.commit()
    return result


def _renewed(checkpoint: Checkpoint, written: WriteResult) -> list[Finding]:
    """A word where the source records a digest for what was written, and it is another than that of what was."""
    recorded = checkpoint.notes.digest
    if recorded is None or written.digest in (None, recorded):
        return []
    message = (
        "the source is not what its recorded digest says: it was changed since by something that does not renew the "
        "digest, or damaged; the target records that of what it holds"
    )
    return [Finding("digest", "warning", "", message, recorded, written.digest)]


def _write_as(progress: Progress | None) -> Callable[[str, Checkpoint, Target], WriteResult]:
    """How one format has a file of another written beside its own."""

    def write(name: str, checkpoint: Checkpoint, target: Target) -> WriteResult:
        return registry.by_name(name).write(checkpoint, target, WriteOptions(progress=progress))

    return write


def _stored(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    tied = checkpoint.tied_to
    return {name: tensor for name, tensor in checkpoint.all_tensors.items() if name not in tied}


def _findings(checkpoint: Checkpoint, wanted: Format, *, kept: bool) -> list[Finding]:
    """What is noticed of the checkpoint, and of it in that format. `kept`: a graph is, and does not stay behind."""
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
