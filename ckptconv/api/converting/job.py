"""Carrying out a conversion: what is prepared is agreed to, written, verified, and gets its name last."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.api.converting.consent import refuse, refuse_dependents, refuse_lacking
from ckptconv.api.converting.conversion import completed, foreseen, planned, stored_tensors
from ckptconv.api.converting.destination import settle
from ckptconv.api.converting.prepare import prepare, without_extras
from ckptconv.errors import NotEquivalentError, located
from ckptconv.formats import registry
from ckptconv.formats.base import WriteOptions
from ckptconv.formats.targets import preflight

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ckptconv.api.converting.companions import Companions
    from ckptconv.api.converting.conversion import Conversion
    from ckptconv.api.converting.destination import Destination
    from ckptconv.api.converting.order import Order
    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.api.converting.verified import Verifier
    from ckptconv.api.editing.lora import Adapters
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.edits.ggml.processes import Quantizing
    from ckptconv.formats.base import WriteResult
    from ckptconv.io.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An order, and how it is carried out. The words are those of `convert`; `allowed` are codes of losses."""

    order: Order
    target: PathText
    allowed: Collection[str]
    shard_size: int | None
    force: bool
    dry_run: bool
    with_files: bool
    progress: Progress | None

    def run(self, opened: Checkpoint, adapters: Adapters) -> Conversion:
        """The conversion of an open source; `adapters` are those of the order's edits. Raises as `convert`."""
        made = prepare(self.order, opened, adapters)
        files = self._companions(opened, made) if self.with_files else None
        if files is not None:
            made = replace(made, checkpoint=files.left_to(made.checkpoint))
        place = settle(self.order.format, self.target, made.checkpoint, self.shard_size, plain=made.plain)
        refuse_lacking(self.order, made, place)
        result = foreseen(self.order, made, place, files)
        if made.checkpoint.extras and not place.format.holds.extras:
            made = without_extras(made)
        if files is not None:
            files.check(place.path, replace=self.force or self.dry_run)
        file = None if self.dry_run else self._consented(opened, made, place, result)
        with (
            self._verifier(made, place) if self.order.verify else nullcontext() as verifier,
            _quantizing(made.checkpoint) if made.is_edited else nullcontext(),
        ):
            if file is None:
                return planned(result, made, place, self.progress)
            with located(self.order.request.source), file:
                written = self._written(made, place, file)
                result = completed(result, made, written, self.allowed)
                opened.check_unchanged()
                adapters.check_unchanged()
                if files is not None:
                    files.write(file)
                return _committed(result, file, written, verifier)

    def _companions(self, opened: Checkpoint, made: Prepared) -> Companions:
        from ckptconv.api.converting.companions import companions_of  # few ask for it

        return companions_of(self.order.request.source, self.order.edits, opened, made.checkpoint)

    def _consented(self, opened: Checkpoint, made: Prepared, place: Destination, result: Conversion) -> Target:
        """The target, once all that would be lost is agreed to. Raises LossError, UnsafeError, TargetExistsError."""
        source = self.order.request.source
        refuse(result.losses, self.allowed, source, bare=self.order.bare)
        refuse_dependents(made.edited, preflight.losses(made.edited, place.format), source)
        place.check_source(source, opened)
        return place.open(replace=self.force)

    def _verifier(self, made: Prepared, place: Destination) -> Verifier:
        from ckptconv.api.converting.verified import Verifier

        return Verifier(self.order.request, made.checkpoint, place.format)

    def _written(self, made: Prepared, place: Destination, file: Target) -> WriteResult:
        how = WriteOptions(
            plain=made.plain, progress=self.progress, own=self.order.own, graph=made.graph,
            write_as=_write_as(self.progress), shard_size=place.shard_size,
        )  # fmt: skip
        return place.format.write(made.checkpoint, file, how)


def _quantizing(checkpoint: Checkpoint) -> Quantizing:
    from ckptconv.edits.ggml.processes import Quantizing

    return Quantizing(stored_tensors(checkpoint).values())


def _committed(result: Conversion, target: Target, written: WriteResult, verifier: Verifier | None) -> Conversion:
    """Give the target its name, after verifying it if that was asked for."""
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


def _write_as(progress: Progress | None) -> Callable[[str, Checkpoint, Target], WriteResult]:
    """How one format has a file in another format written beside its own."""

    def write(name: str, checkpoint: Checkpoint, target: Target) -> WriteResult:
        return registry.by_name(name).write(checkpoint, target, WriteOptions(progress=progress))

    return write
