"""What ``import ckptconv`` gives: open, convert, inspect.

Results are data; nothing is printed. A `progress` callback is told the bytes done and the bytes in all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckptconv.core.metadata import Opaque, spell_path, walk
from ckptconv.core.report import Finding
from ckptconv.core.spelling import to_json
from ckptconv.errors import CkptconvError, LossError, UnsafeError, UsageError
from ckptconv.formats import preflight, registry
from ckptconv.formats.base import WriteOptions
from ckptconv.io.source import Source
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckptconv.checks.stats import Stats
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import Format

PathText = str | PathLike[str]
Verdict = Literal["plain", "opaque", "would run code"]


def open(path: PathText, *, format: str | None = None) -> Checkpoint:
    """Open a checkpoint: its headers are read, no tensor byte is. Close it, or use it as a context manager.

    `format` overrides what the bytes say. Raises CkptconvError, with the file named, on anything that cannot be read.
    """
    source = Source(path)
    try:
        return _read(source, format)
    except CkptconvError as error:
        source.close()
        raise error.at(path) from error.__cause__
    except BaseException:
        source.close()
        raise


def _read(source: Source, format: str | None) -> Checkpoint:
    chosen = registry.by_name(format) if format else registry.detect(source)
    return chosen.read(source)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did, or with `dry_run` would have done.

    losses:   what the target cannot give back; all of it was agreed to, unless this was a dry run.
    findings: what a person should know besides.
    digest:   the content digest, where the written file records one.
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

    def to_dict(self) -> dict[str, Json]:
        """The conversion as ``convert --json`` prints it."""
        document = {
            "source": str(self.source),
            "target": str(self.target),
            "tensors": self.tensors,
            "nbytes": self.nbytes,
            "losses": [loss.to_dict() for loss in self.losses],
            "findings": [finding.to_dict() for finding in self.findings],
        }
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
    allow_loss: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert `source` into a new file `target`, whose format its suffix or `to_format` says.

    force:      replace an existing target.
    dry_run:    write nothing; list what would be lost.
    bare:       the model's tensors alone, without metadata and extras.
    metadata:   top-level keys to set.
    allow_loss: codes of losses that are agreed to (`preflight.CODES`), or "all".

    The target is written atomically: on any error it is as it was. Memory is constant in the size of the file.
    Raises LossError, UnsafeError, TargetExistsError, DamagedTensorError and others of CkptconvError.
    """
    if unknown := set(allow_loss) - {*preflight.CODES, "all"}:
        raise UsageError(f"there is no loss {min(unknown)!r}", hint=f"known: {', '.join(preflight.CODES)}, all")
    wanted = registry.by_name(to_format) if to_format else registry.by_suffix(Path(target))
    with open(source, format=from_format) as opened:
        checkpoint = opened.bare() if bare else opened
        checkpoint = checkpoint.with_metadata(metadata or {})
        losses = preflight.losses(checkpoint, wanted)
        result = Conversion(
            Path(source), Path(target), opened.format, wanted.name, len(checkpoint), 0, losses,
            _findings(checkpoint, wanted, bare=bare),
        )  # fmt: skip
        if dry_run:
            planned = sum(tensor.info.nbytes for tensor in _stored(checkpoint).values())
            return replace(result, nbytes=planned)
        _refuse(losses, allow_loss, source)
        try:
            return _write(
                opened, checkpoint, wanted, Target(target, replace=force), result, progress, plain=bare and not metadata
            )
        except CkptconvError as error:
            raise error.at(source) from error.__cause__


def _write(
    opened: Checkpoint, checkpoint: Checkpoint, wanted: Format, target: Target, result: Conversion,
    progress: Callable[[int, int], None] | None, *, plain: bool,
) -> Conversion:  # fmt: skip
    with target:
        written = wanted.write(checkpoint, target, WriteOptions(plain=plain, progress=progress))
        opened.check_unchanged()
        target.commit()
    return replace(result, nbytes=written.nbytes, digest=written.digest)


def _stored(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    tied = checkpoint.tied_to
    return {name: tensor for name, tensor in checkpoint.all_tensors.items() if name not in tied}


def _findings(checkpoint: Checkpoint, wanted: Format, *, bare: bool) -> list[Finding]:
    findings = [*checkpoint.findings, *wanted.notices_for(checkpoint)]
    if checkpoint.extras and wanted.holds.extras and wanted.holds.metadata == "record":
        message = (
            f"{len(checkpoint.extras)} tensors outside of the state_dict are carried along; --bare leaves them out"
        )
        findings.append(Finding("extras", "info", "", message))
    if not checkpoint.all_tensors:
        findings.append(Finding("no-tensors", "warning", "", "the source holds no tensor at all"))
    return findings


def _refuse(losses: list[Finding], allowed: Collection[str], source: PathText) -> None:
    """Raise unless every loss was agreed to."""
    if "all" in allowed:
        return
    left = [loss for loss in losses if loss.code not in allowed]
    calls = [loss for loss in left if loss.code == "opaque" and loss.message.endswith("which is not made")]
    if calls:
        raise UnsafeError(
            f"loading this file with pickle would run code: {len(calls)} call{'s' if len(calls) > 1 else ''}",
            path=source,
            hint="--bare takes the model's tensors alone; --allow-loss opaque keeps the calls as data, unmade",
            details=[call.message for call in calls[:20]],
        )
    if left:
        codes = " ".join(f"--allow-loss {code}" for code in dict.fromkeys(loss.code for loss in left))
        raise LossError(left, path=source, hint=f"{codes} goes on without; --bare takes the model's tensors alone")


@dataclass(frozen=True, slots=True)
class OpaqueUse:
    """An object that was not built: where it stands and how the pickle would have made it."""

    where: str
    node: Opaque

    def to_dict(self) -> dict[str, Json]:
        """As ``inspect --json`` prints it."""
        return {
            "class": self.node.name,
            "where": self.where,
            "called": self.node.how == "called",
            "how": self.node.how,
            "args": [to_json(arg) for arg in self.node.args],
            "state": to_json(self.node.state),
        }


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a checkpoint. `checkpoint` is closed unless statistics or a digest were asked for by the caller."""

    path: Path
    file_size: int
    checkpoint: Checkpoint
    opaque: list[OpaqueUse]
    stats: dict[str, Stats | None] | None = None
    digest: str | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether loading the file with pickle would run code from it."""
        if any(use.node.how == "called" for use in self.opaque):
            return "would run code"
        return "opaque" if self.opaque else "plain"

    @property
    def parameters(self) -> int:
        """Elements of the model's tensors, a tied one counted once."""
        tied = self.checkpoint.tied_to
        return sum(prod(tensor.info.shape) for name, tensor in self.checkpoint.items() if name not in tied)

    @property
    def digest_holds(self) -> bool | None:
        """Whether the digest that the file records is that of its contents; None where it records none."""
        recorded = self.checkpoint.notes.digest
        return None if recorded is None or self.digest is None else recorded == self.digest

    def to_dict(self) -> dict[str, Json]:
        """The inspection as ``inspect --json`` prints it."""
        partners = {name: group[0] for group in self.checkpoint.ties for name in group[1:]}
        partners |= {group[0]: group[1] for group in self.checkpoint.ties}
        document: dict[str, Json] = {
            "path": str(self.path),
            "format": self.checkpoint.format,
            "tensors": [
                self._tensor(name, tensor, partners.get(name)) for name, tensor in self.checkpoint.all_tensors.items()
            ],
            "metadata": to_json(self.checkpoint.metadata),
            "notes": self.checkpoint.notes.to_dict(),
            "parameters": self.parameters,
            "nbytes": self.file_size,
            "verdict": self.verdict,
            "opaque": [use.to_dict() for use in self.opaque],
            "globals": [{"name": use.name, "called": use.called} for use in self.checkpoint.notes.globals],
            "findings": [finding.to_dict() for finding in self.checkpoint.findings],
        }
        if self.digest is not None:
            document |= {"digest": self.digest, "digest_holds": self.digest_holds}
        return document

    def _tensor(self, name: str, tensor: LazyTensor, partner: str | None) -> dict[str, Json]:
        info = tensor.info
        entry: dict[str, Json] = {
            "name": name,
            "dtype": info.dtype.name,
            "shape": list(info.shape),
            "nbytes": info.nbytes,
            "tied_to": partner,
            "extra": name in self.checkpoint.extras,
        }
        if self.stats is not None:
            figures = self.stats[name]
            entry["stats"] = None if figures is None else figures.to_dict()
        return entry


def inspect(
    path: PathText,
    *,
    format: str | None = None,
    stats: bool = False,
    digest: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Say what is in a checkpoint, from its headers alone unless `stats` or `digest` ask for values.

    Nothing of the file is run: objects of unknown classes are reported in `opaque`, and `verdict` sums them up.
    """
    from ckptconv.io.digest import digest as digest_of

    with open(path, format=format) as checkpoint:
        opaque = [
            OpaqueUse(spell_path(where), node) for where, node in walk(checkpoint.root) if isinstance(node, Opaque)
        ]
        result = Inspection(Path(path), Path(path).stat().st_size, checkpoint, opaque)
        if stats:
            result = replace(result, stats=_stats(checkpoint, progress))
        if digest:
            result = replace(result, digest=digest_of(checkpoint, progress))
        return result


def _stats(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None) -> dict[str, Stats | None]:
    from ckptconv.checks.stats import stats

    tensors = checkpoint.all_tensors
    total, done = sum(tensor.info.nbytes for tensor in tensors.values()), 0
    figures = {}
    for name, tensor in tensors.items():
        figures[name] = stats(tensor)
        done += tensor.info.nbytes
        if progress is not None:
            progress(done, total)
    return figures
