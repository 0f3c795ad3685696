"""``convert --verify``: runs source and target before the target gets its name."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.fitting.program import program_of
from ckptconv.api.running.feeds import batches_for, inputs_of
from ckptconv.api.running.memory import Memory
from ckptconv.api.running.pair import DEFAULT_SAMPLES, verify_sides
from ckptconv.api.running.side import Side, Subject
from ckptconv.arch.factory import is_reference
from ckptconv.arch.samples import parse_input
from ckptconv.checks.runners import check_device
from ckptconv.io.staging import staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.api.request import Request
    from ckptconv.api.running.comparing import Verification
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format, WriteResult
    from ckptconv.io.target import Target


class Verifier:
    """Runs the source of a conversion, and what was written. A context manager.

    Weights run with the edited tensors, since edits are intended. A source that is a graph runs as that graph.
    """

    def __init__(self, request: Request, checkpoint: Checkpoint, wanted: Format) -> None:
        """Load the source, before anything is written. Raises UsageError if nothing says what it computes."""
        self.request = request
        self.checkpoint = checkpoint
        self._stack, self._memory = ExitStack(), Memory()
        check_device("cpu")
        try:
            self._side = Side(Subject(self.request, tensors=checkpoint), self._stack, self._memory)
            self.request = self._side.request
            self._side.load()
            self._check_target(wanted)
        except BaseException:
            self._stack.close()
            raise

    def _check_target(self, wanted: Format) -> None:
        """Make sure that the target can be run as well. Raises UsageError."""
        arch = self.request.arch
        if self._side.is_graph and not wanted.graph and not (arch is not None and is_reference(arch)):
            program_of(self.request, self.checkpoint)
        if self.request.inputs:
            for text in self.request.inputs:
                parse_input(text)
        elif not wanted.graph:
            inputs_of([self._side])

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def verify(self, target: Target, written: WriteResult) -> Iterator[Verification]:
        """Run what was written. The target has to be committed within the context. Raises RunError."""
        neighbours = [finding.where for finding in written.findings if finding.code == "external-data"]
        with staged(target, neighbours) as path, ExitStack() as stack:
            request = replace(self.request, source=path, read_as=None)
            other = Side(Subject(request, evidence=self.checkpoint), stack, self._memory)
            batches = batches_for([self._side, other], None, DEFAULT_SAMPLES, 0)
            verification = verify_sides(self._side, other, batches, seed=0)
            yield replace(verification, first=self.request.path, second=target.path)
