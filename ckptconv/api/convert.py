"""Converting a checkpoint into another file."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ckptconv.api.asked import Request
from ckptconv.api.casts import cast_losses, read_casts, unheld_blocks
from ckptconv.api.destination import choose_format, settle, size_of_shards
from ckptconv.api.dialects import untranslated
from ckptconv.api.edits import Moves, edited
from ckptconv.api.lora import Adapters
from ckptconv.api.open import open
from ckptconv.api.plan import plan_of
from ckptconv.core.metadata import Opaque, TensorRef, walk
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, LossError, NotEquivalentError, UnsafeError, UsageError
from ckptconv.formats import preflight, registry
from ckptconv.formats.base import WriteOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ckptconv.api.edits import Edits
    from ckptconv.api.open import PathText
    from ckptconv.api.plan import Move
    from ckptconv.api.verified import Verifier
    from ckptconv.api.verify import Verification
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import Format, WriteResult
    from ckptconv.formats.onnx.plan import OnnxOptions
    from ckptconv.io.target import Target


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did, or with `dry_run` would have done.

    losses:   what the target cannot give back; all of it was agreed to, unless this was a dry run.
    findings: what a person should know besides.
    digest:   the content digest, where the written file records one.
    plan:     in a dry run, what becomes of every tensor.
    verification: what `verify` found, where it was asked for.
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
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert `source` into a new file `target`, whose format its suffix or `to_format` says; a new folder where the
    format is one.

    force:      replace an existing target.
    dry_run:    write nothing; list what would be lost. Tensors that are cast are read, for what overflows.
    bare:       the model's tensors alone, without metadata and extras.
    metadata:   top-level keys to set.
    allow_loss: a code, or codes, of losses that are agreed to (`preflight.CODES`), or "all".

    arch:        the architecture that the source must fit, as in `validate`; the target remembers it as a note.
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

    The target is written atomically: on any error it is as it was. Memory is constant in the size of the file.
    Raises LossError, UnsafeError, TargetExistsError, DamagedTensorError, MisfitError and others of CkptconvError.
    """
    if isinstance(allow_loss, str):
        allow_loss = (allow_loss,)
    if unknown := set(allow_loss) - {*preflight.CODES, "all"}:
        raise UsageError(f"there is no loss {min(unknown)!r}", hint=f"known: {', '.join(preflight.CODES)}, all")
    if settings and arch is None and not with_params:
        raise UsageError("params are set for no architecture", hint="name it with --arch, or ask for --with-params")
    size = size_of_shards(shard_size)
    wanted = choose_format(target, to_format, size)
    own = wanted.parse_options(options or {})
    if inputs and not verify and not (wanted.graph and arch is not None):
        raise UsageError("inputs are for Python that a graph is made of", hint="--input goes with --arch FILE.py:CLASS")
    with (
        open(source, format=from_format, progress=progress) as opened,
        Adapters(edits.names if edits else ()) as adapters,
    ):
        named = _named(opened, arch, Path(source), settings, graph=wanted.graph)
        opened, moves = edited(named, edits, adapters, bare=bare) if edits else (named, Moves())
        entries: dict[str, MetaNode] = {}
        if edits and edits.to_gguf:
            from ckptconv.api.gguf import check_target, completed

            check_target(wanted)
            opened, entries = completed(opened, source, metadata or {}, bare=bare)
            moves = replace(moves, origins={name: moves.origins.get(name, ()) for name in opened})
        said = opened.with_metadata(metadata or {})
        request = Request(source, target, arch, settings, inputs, read_as=from_format)
        fitting, graph = None, None
        if arch is not None or with_params:
            from ckptconv.api.fitting import fit

            fitting = fit(request, said, params=with_params)
        if wanted.graph:
            from ckptconv.api.graph import plan_graph

            graph = plan_graph(request, said, cast("OnnxOptions", own))
        values = {**(fitting.params if fitting else {}), **entries, **(metadata or {})}
        note = graph.note if graph and graph.note else fitting.note if fitting else None
        checkpoint = _prepared(opened, values, bare=bare, note=note)
        plain = bare and not values
        place = settle(wanted, target, checkpoint, size, plain=plain)
        wanted = place.format
        losses = [*preflight.losses(checkpoint, wanted), *unheld_blocks(checkpoint, wanted)]
        noticed = graph.findings if graph else fitting.findings if fitting else ()
        result = Conversion(
            Path(source), place.path, opened.format, wanted.name, len(checkpoint), 0, losses,
            [
                *noticed, *_findings(checkpoint, wanted, bare=bare), *untranslated(opened, wanted, edits),
                *place.findings, *place.left_behind(source),
            ],
        )  # fmt: skip
        if not dry_run:
            _refuse(losses, allow_loss, source)
            _refuse_dependents(opened, preflight.losses(opened, wanted), source)
            written = place.open(replace=force)
        with _verifier(request, checkpoint, wanted) if verify else nullcontext() as verifier:
            if dry_run:
                plan = plan_of(named, checkpoint, moves, place.file_of(checkpoint))
                return _planned(result, checkpoint, plan, progress)
            try:
                how = WriteOptions(
                    plain=plain, progress=progress, own=own, graph=graph, write_as=_write_as(progress),
                    shard_size=place.shard_size,
                )  # fmt: skip
                return _write(opened, checkpoint, wanted, written, result, how, allow_loss, verifier, adapters)
            except CkptconvError as error:
                raise error.at(source) from error.__cause__


def _named(checkpoint: Checkpoint, arch: str | None, path: Path, settings: Sequence[str], *, graph: bool) -> Checkpoint:
    """The checkpoint with names that `arch` gives back, for a graph with those that its class holds."""
    if arch is None:
        return checkpoint
    from ckptconv.api.naming import named_by_architecture, named_by_class  # it needs all of the ONNX reader
    from ckptconv.arch.huggingface import is_config

    named = named_by_architecture(checkpoint, arch, path, settings)
    return named_by_class(named, arch, settings) if graph and is_config(arch) else named


def _verifier(request: Request, checkpoint: Checkpoint, wanted: Format) -> Verifier:
    from ckptconv.api.verified import Verifier

    return Verifier(request, checkpoint, wanted)


def _prepared(opened: Checkpoint, values: Mapping[str, MetaNode], *, bare: bool, note: MetaNode) -> Checkpoint:
    """What is to be written. The model's tensors alone carry no note of their architecture."""
    checkpoint = (opened.bare() if bare else opened).with_metadata(values)
    if note is None or (bare and not values):
        return checkpoint
    from ckptconv.api.fitting import noted

    return noted(checkpoint, note)


def _planned(
    result: Conversion, checkpoint: Checkpoint, plan: list[Move], progress: Callable[[int, int], None] | None
) -> Conversion:
    """What a dry run says; the values of tensors that are cast are looked at for it."""
    read_casts(checkpoint, progress)
    over, cast = cast_losses(checkpoint)
    nbytes = sum(tensor.info.nbytes for tensor in _stored(checkpoint).values())
    losses, findings = [*result.losses, *over], [*result.findings, *cast]
    return replace(result, nbytes=nbytes, losses=losses, findings=findings, plan=plan)


def _write(
    opened: Checkpoint, checkpoint: Checkpoint, wanted: Format, target: Target, result: Conversion, how: WriteOptions,
    allow_loss: Collection[str], verifier: Verifier | None, adapters: Adapters,
) -> Conversion:  # fmt: skip
    with target:
        written = wanted.write(checkpoint, target, how)
        over, cast = cast_losses(checkpoint)  # known once the values have passed
        if over and not {"overflow", "all"} & set(allow_loss):
            raise LossError(over, hint="--allow-loss overflow goes on; or --dtype 'NAME=F32' for these alone")
        opened.check_unchanged()
        adapters.check_unchanged()
        losses = [*result.losses, *over]
        findings = [*result.findings, *written.findings, *cast, *_renewed(checkpoint, written)]
        result = replace(result, nbytes=written.nbytes, digest=written.digest, losses=losses, findings=findings)
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


def _write_as(progress: Callable[[int, int], None] | None) -> Callable[[str, Checkpoint, Target], WriteResult]:
    """How one format has a file of another written beside its own."""

    def write(name: str, checkpoint: Checkpoint, target: Target) -> WriteResult:
        return registry.by_name(name).write(checkpoint, target, WriteOptions(progress=progress))

    return write


def _stored(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    tied = checkpoint.tied_to
    return {name: tensor for name, tensor in checkpoint.all_tensors.items() if name not in tied}


def _findings(checkpoint: Checkpoint, wanted: Format, *, bare: bool) -> list[Finding]:
    findings = [*checkpoint.findings, *wanted.notices_for(checkpoint)]
    if checkpoint.extras and wanted.holds.extras and wanted.holds.metadata == "record":
        count = len(checkpoint.extras)
        what = ("1 tensor", "is", "it") if count == 1 else (f"{count:,} tensors", "are", "them")
        message = "{} outside of the state_dict {} carried along; --bare leaves {} out".format(*what)
        findings.append(Finding("extras", "info", "", message))
    if not checkpoint.all_tensors:
        findings.append(Finding("no-tensors", "warning", "", "the source holds no tensor at all"))
    return findings


def _refuse(losses: list[Finding], allowed: Collection[str], source: PathText) -> None:
    """Raise unless every loss was agreed to."""
    if "all" in allowed:
        return
    left = [loss for loss in losses if loss.code not in allowed]
    _refuse_calls(left, source)
    if left:
        codes = " ".join(f"--allow-loss {code}" for code in dict.fromkeys(loss.code for loss in left))
        hints = dict.fromkeys(loss.hint for loss in left if loss.hint)
        ways = [*hints, f"{codes} goes on without", "--bare takes the model's tensors alone"]
        raise LossError(left, path=source, hint="; ".join(ways))


def _refuse_calls(losses: list[Finding], source: PathText) -> None:
    """Raise if there is a call that was not agreed to."""
    calls = [loss for loss in losses if loss.code == "opaque" and loss.message.endswith("which is not made")]
    if calls:
        raise UnsafeError(
            f"loading this file with pickle would run code: {len(calls)} call{'s' if len(calls) > 1 else ''}",
            path=source,
            hint="--bare takes the model's tensors alone; --allow-loss opaque keeps the calls as data, unmade",
            details=[call.message for call in calls[:20]],
        )


def _refuse_dependents(opened: Checkpoint, losses: list[Finding], source: PathText) -> None:
    """Raise if a tensor of the model hangs on a call, or if nothing but calls would make one."""
    made = [node for _, node in walk(opened.root) if isinstance(node, Opaque) and node.how == "called"]
    parts = (part for node in made for _, part in walk(node))
    if not len(opened):
        _refuse_calls(losses, source)
    for part in parts:
        if isinstance(part, TensorRef) and part.name in opened:
            raise UnsafeError(
                f"the model's {part.name!r} is an argument of a call, which is not made here",
                path=source,
                hint="load the file in a place that you can lose, and save model.state_dict()",
            )
