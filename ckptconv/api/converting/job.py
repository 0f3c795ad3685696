"""Runs a conversion: prepare, ask for consent, write, verify, and give the target its name last."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.api.converting.consent import refuse_dependents, refuse_unwritable, require_consent
from ckptconv.api.converting.conversion import dry_run_result, forecast, stored_tensors, written_result
from ckptconv.api.converting.destination import choose_destination, stands_in_folder
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
    from ckptconv.api.converting.made_files import MadeFiles
    from ckptconv.api.converting.order import Order
    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.api.converting.verifier import Verifier
    from ckptconv.api.editing.step_files import StepFiles
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.edits.ggml.processes import Quantizing
    from ckptconv.formats.base import WriteResult
    from ckptconv.io.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An order, and how to carry it out. The fields are arguments of `convert`.

    allowed: the codes of losses that the user agreed to.
    """

    order: Order
    target: PathText
    allowed: Collection[str]
    shard_size: int | None
    force: bool
    dry_run: bool
    with_files: bool
    progress: Progress | None

    def run(self, opened: Checkpoint, files: StepFiles) -> Conversion:
        """Convert the open source. `files` are those that the order's edits name. Raises as `convert` does."""
        prepared = prepare(self.order, opened, files)
        companions = self._find_companions(opened, prepared)
        if companions is not None:
            prepared = companions.applied_to(prepared)
        place = choose_destination(
            self.order.format, self.target, prepared.checkpoint, self.shard_size, plain=prepared.plain
        )
        refuse_unwritable(self.order, prepared, place)
        result = forecast(self.order, prepared, place, companions)
        if prepared.checkpoint.extras and not place.format.holds.extras:
            prepared = without_extras(prepared)
        if companions is not None:
            companions.check(place.path, replace=self.force or self.dry_run)
        target = None if self.dry_run else self._open_target(opened, prepared, place, result)
        with (
            self._make_verifier(prepared, place) if self.order.verify else nullcontext() as verifier,
            _quantizing_processes(prepared.checkpoint) if prepared.is_edited else nullcontext(),
        ):
            if target is None:
                return dry_run_result(result, prepared, place, self.progress)
            with located(self.order.request.source), target:
                written = self._write(prepared, place, target)
                result = written_result(result, prepared, written, self.allowed)
                opened.check_unchanged()
                files.check_unchanged()
                if companions is not None:
                    companions.write(target)
                return _commit(result, target, written, verifier)

    def _find_companions(self, opened: Checkpoint, prepared: Prepared) -> Companions | MadeFiles | None:
        """The files to write beside the target; None if there are none. Imports late: few conversions need it."""
        order, folder = self.order, stands_in_folder(self.target, self.shard_size)
        if order.edits.dialects:
            from ckptconv.api.converting.made_files import make_files, makes_files

            if makes_files(order, opened, with_files=self.with_files, folder=folder):
                return make_files(order, opened, prepared.checkpoint, demanded=self.with_files)
        if not self.with_files:
            return None
        from ckptconv.api.converting.companions import find_companions

        return find_companions(order.request.source, order.edits, opened, prepared.checkpoint)

    def _open_target(self, opened: Checkpoint, prepared: Prepared, place: Destination, result: Conversion) -> Target:
        """Open the target, once every loss is agreed to. Raises LossError, UnsafeError, TargetExistsError."""
        source = self.order.request.source
        require_consent(result.losses, self.allowed, source, bare=self.order.bare)
        refuse_dependents(prepared.edited, preflight.losses(prepared.edited, place.format), source)
        place.check_source(source, opened)
        return place.open(replace=self.force)

    def _make_verifier(self, prepared: Prepared, place: Destination) -> Verifier:
        from ckptconv.api.converting.verifier import Verifier

        return Verifier(self.order.request, prepared.checkpoint, place.format)

    def _write(self, prepared: Prepared, place: Destination, target: Target) -> WriteResult:
        options = WriteOptions(
            plain=prepared.plain, progress=self.progress, own=self.order.own, graph=prepared.graph,
            write_as=_other_format_writer(self.progress), shard_size=place.shard_size,
        )  # fmt: skip
        return place.format.write(prepared.checkpoint, target, options)


def _quantizing_processes(checkpoint: Checkpoint) -> Quantizing:
    from ckptconv.edits.ggml.processes import Quantizing

    return Quantizing(stored_tensors(checkpoint).values())


def _commit(result: Conversion, target: Target, written: WriteResult, verifier: Verifier | None) -> Conversion:
    """Give the target its name, after verifying it if that was asked for. Raises NotEquivalentError."""
    if verifier is None:
        target.commit()
        return result
    with verifier.verify(target, written) as verification:
        result = replace(result, verification=verification)
        if not verification.equivalent:
            errors = [f"{finding.code}: {finding.message}" for finding in verification.findings]
            raise NotEquivalentError(result, path=target.path, details=errors)
        target.commit()
    return result


def _other_format_writer(progress: Progress | None) -> Callable[[str, Checkpoint, Target], WriteResult]:
    """The function by which a format's writer has a file in another format written beside its own."""

    def write(name: str, checkpoint: Checkpoint, target: Target) -> WriteResult:
        return registry.by_name(name).write(checkpoint, target, WriteOptions(progress=progress))

    return write
