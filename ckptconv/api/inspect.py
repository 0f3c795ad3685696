"""`inspect`: what is in a checkpoint, and what loading it would run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckptconv.api.editing.lora import summary_of
from ckptconv.api.inspecting.embedded import inspect_embedded_files
from ckptconv.api.inspecting.uses import OpaqueUse, OtherFiles, uses_of
from ckptconv.api.open import open
from ckptconv.core.composite import VALUES, Quantized
from ckptconv.core.spelling import to_json
from ckptconv.core.tensor import shapes_of
from ckptconv.edits.parametrized.find import all_parametrized
from ckptconv.edits.quantized.marks import kinds_in
from ckptconv.errors import CkptconvError, UnknownFormatError, UsageError, located

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.open import PathText
    from ckptconv.checks.stats import Stats
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import GlobalUse
    from ckptconv.core.progress import Progress
    from ckptconv.core.report import Finding
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.summary import Summary

Verdict = Literal["plain", "opaque", "would run code"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a checkpoint.

    checkpoint: closed; everything but its tensors' bytes is still available.
    opaque:     objects that are not built here.
    runs_if:    objects and calls that a library builds or runs only with the user's consent.
    beside:     the other files, if the checkpoint is a folder.
    absent:     for a folder or an archive with no checkpoint, or with several: why there is none here.
    stats:      by tensor name, if asked for; None for a tensor whose type has no statistics.
    adapter:    a summary, if it is an adapter and not a model.
    plain:      the number of parameters with quantized weights counted as the floats that they stand for; None if there
                are no quantized weights.
    """

    path: Path
    file_size: int
    checkpoint: Checkpoint
    opaque: list[OpaqueUse]
    runs_if: list[OpaqueUse] = field(default_factory=list)
    beside: OtherFiles = field(default_factory=OtherFiles)
    absent: CkptconvError | None = None
    stats: dict[str, Stats | None] | None = None
    digest: str | None = None
    adapter: Summary | None = None
    plain: int | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether loading the file, by pickle or by its framework, would run code from it, or import something that is
        not known here. For a folder, any file in it counts. What a framework asks consent for (`runs_if`) counts as
        neither.
        """
        if any(use.runs for use in self.opaque):
            return "would run code"
        unknown = any(not use.known for use in self.globals)
        return "opaque" if self.opaque or unknown else "plain"

    @property
    def globals(self) -> list[GlobalUse]:
        """The names that pickles mention, in this file and in the others of its folder, each once."""
        return list(dict.fromkeys((*self.checkpoint.notes.globals, *self.beside.globals)))

    @property
    def findings(self) -> list[Finding]:
        """What was noticed while reading the checkpoint and the files beside it."""
        return [*self.checkpoint.findings, *self.beside.findings]

    @property
    def parameters(self) -> int:
        """Elements of the model's tensors, tied ones counted once. A quantized tensor counts the elements that it
        stands for, a sparse one its values.
        """
        if self.plain is not None:
            return self.plain
        tied = self.checkpoint.tied_to
        sizes = {name: prod(tensor.info.shape) for name, tensor in self.checkpoint.items() if name not in tied}
        for composite in self.checkpoint.composites.values():
            for role, name in composite.parts.items():
                if role != VALUES:
                    sizes.pop(name, None)
                elif name in sizes and isinstance(composite, Quantized):
                    sizes[name] = prod(composite.shape)
        return sum(sizes.values())

    @property
    def quantized(self) -> dict[str, int]:
        """How the model's weights are quantized, by names and types of tensors, with the number of weights for each."""
        return kinds_in(self.checkpoint)

    @property
    def parametrized(self) -> dict[str, int]:
        """How many of the model's weights a network computes of several tensors, by scheme: pruned, weight_norm,
        spectral_norm, or "unknown" for a class that the file does not name.
        """
        weights = all_parametrized(shapes_of(self.checkpoint))
        return dict(Counter(weight.scheme or "unknown" for weight in weights))

    @property
    def digest_holds(self) -> bool | None:
        """Whether the digest that the file records matches its contents; None if it records none."""
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
            "composites": [{"name": name, **whole.to_dict()} for name, whole in self.checkpoint.composites.items()],
            "metadata": to_json(self.checkpoint.metadata),
            "notes": self.checkpoint.notes.to_dict(),
            "parameters": self.parameters,
            "nbytes": self.file_size,
            "verdict": self.verdict,
            "opaque": [use.to_dict() for use in self.opaque],
            "runs_if": [use.to_dict() for use in self.runs_if],
            "globals": [{"name": use.name, "called": use.called, "known": use.known} for use in self.globals],
            "findings": [finding.to_dict() for finding in self.findings],
        }
        if quantized := self.quantized:
            document["quantized"] = {**quantized}
        if parametrized := self.parametrized:
            document["parametrized"] = {**parametrized}
        if self.digest is not None:
            document |= {"digest": self.digest, "digest_holds": self.digest_holds}
        if self.adapter is not None:
            document["adapter"] = self.adapter.to_dict()
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
    progress: Progress | None = None,
) -> Inspection:
    """Say what is in a checkpoint, from its headers alone unless `stats` or `digest` ask for values.

    Nothing in the file is run: objects of unknown classes are reported in `opaque`, and `verdict` sums them up. For a
    folder, every file in it that may be unpickled or run counts. A folder without a checkpoint, or with several, has no
    tensors; only what its files would run is reported (`absent` says why).
    """
    try:
        opened = open(path, format=format, progress=progress)
    except (UnknownFormatError, UsageError) as error:
        result = None if format or stats or digest else _inspect_without_checkpoint(path, error)
        if result is None:
            raise
        return result
    return _inspect_open(path, opened, stats=stats, digest=digest, progress=progress)


def _inspect_without_checkpoint(path: PathText, error: CkptconvError) -> Inspection | None:
    """Inspect a folder or an archive without a checkpoint; None if there is nothing to look at."""
    from ckptconv.api.inspecting.no_checkpoint import inspect_without_checkpoint

    contents = inspect_without_checkpoint(path, error)
    if contents is None:
        return None
    opaque, runs_if = _split_by_consent(contents.beside.uses)
    return Inspection(Path(path), contents.size, contents.checkpoint, opaque, runs_if, contents.beside, error)


def _split_by_consent(uses: Sequence[OpaqueUse]) -> tuple[list[OpaqueUse], list[OpaqueUse]]:
    """The uses that need no consent, and those that do."""
    return [use for use in uses if not use.only_if], [use for use in uses if use.only_if]


def _inspect_open(
    path: PathText, opened: Checkpoint, *, stats: bool, digest: bool, progress: Progress | None
) -> Inspection:
    from ckptconv.io.digest import digest as digest_of

    with opened as checkpoint:
        with located(path):
            others = inspect_embedded_files(checkpoint, Path(path))
            uses = uses_of(checkpoint) + others.uses
        size = checkpoint.file.size if checkpoint.file else 0
        if os.path.isdir(path) or not os.path.lexists(path) or checkpoint.notes.members:
            from ckptconv.api.inspecting.beside import inspect_beside
            from ckptconv.formats.beside.homes import place_of

            place = place_of(Path(path), checkpoint)
            if place is not None:
                beside = inspect_beside(place, checkpoint)
                uses += beside.uses
                others = replace(beside, globals=others.globals + beside.globals)
        opaque, runs_if = _split_by_consent(uses)
        result = Inspection(
            Path(path), size, checkpoint, opaque, runs_if, others, adapter=summary_of(checkpoint),
            plain=_plain_parameters(checkpoint),
        )  # fmt: skip
        if stats:
            result = replace(result, stats=_stats(checkpoint, progress))
        if digest:
            result = replace(result, digest=digest_of(checkpoint, progress))
        return result


def _plain_parameters(checkpoint: Checkpoint) -> int | None:
    """The elements that ``--dequantize`` would give; None if nothing is quantized, or not all of it is understood."""
    if not kinds_in(checkpoint):
        return None
    from ckptconv.api.editing.dequantize import edits_for
    from ckptconv.api.evidence import merged_values
    from ckptconv.edits.apply import apply

    notes, tied = checkpoint.notes, checkpoint.tied_to
    needed = {part for weight in notes.quantized for part in weight.parts.values()}
    tensors = {name: tensor for name, tensor in checkpoint.items() if name not in tied or name in needed}
    try:
        plain = apply(tensors, edits_for(tensors, merged_values(checkpoint), checkpoint.composites, notes))
    except CkptconvError:
        return None
    return sum(prod(tensor.info.shape) for tensor in plain.values())


def _stats(checkpoint: Checkpoint, progress: Progress | None) -> dict[str, Stats | None]:
    from ckptconv.checks.stats import stats_of

    tensors = checkpoint.all_tensors
    return dict(zip(tensors, stats_of(list(tensors.values()), progress), strict=True))
