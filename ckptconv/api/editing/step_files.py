"""The files that the steps of a conversion name, open until it is done: adapters to merge, and templates."""

from __future__ import annotations

from contextlib import ExitStack
from math import isfinite
from typing import TYPE_CHECKING

from ckptconv.api.editing.lora import Lora, adapter_of, merge_findings, open_adapter
from ckptconv.api.open import open
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import UsageError, located

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.adapter import Adapter, Merge


class StepFiles:
    """A context manager. The steps are those of `Edits`."""

    def __init__(self, steps: Iterable[object]) -> None:
        self._steps = tuple(steps)
        self._files = ExitStack()
        self._adapters: dict[int, tuple[Checkpoint, Adapter]] = {}
        self._templates: dict[str, Checkpoint] = {}

    def __enter__(self) -> StepFiles:
        try:
            for step in self._steps:
                if isinstance(step, Lora):
                    checkpoint = self._files.enter_context(open_adapter(step.path))
                    with located(step.path):
                        self._adapters[id(step)] = checkpoint, adapter_of(checkpoint, step.label)
                elif isinstance(step, NameRule) and step.how == "like" and step.text not in self._templates:
                    self._templates[step.text] = self._files.enter_context(open(step.text))
        except BaseException:
            self._files.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def templates(self) -> Iterator[Checkpoint]:
        """The templates of ``--like``, opened."""
        return iter(self._templates.values())

    def template(self, rule: NameRule) -> Checkpoint:
        """The template that a rule ``like`` names."""
        return self._templates[rule.text]

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if one of the files was written to since it was opened."""
        for checkpoint, _ in self._adapters.values():
            checkpoint.check_unchanged()
        for checkpoint in self.templates:
            checkpoint.check_unchanged()

    def merge(self, lora: Lora, tensors: Mapping[str, LazyTensor]) -> tuple[Merge, list[Finding]]:
        """Merge an adapter into the tensors. Raises as `edits.adapters.merge` does, with the adapter's path."""
        from ckptconv.edits.adapters.merge import merge

        _, adapter = self._adapters[id(lora)]
        if lora.scale is not None and not isfinite(lora.scale):
            raise UsageError(f"{lora.label}: {lora.scale} is not a scale", hint="--lora ADAPTER=0.8")
        with located(lora.path):
            result = merge(tensors, adapter, lora.scale)
        return result, merge_findings(lora, adapter, result)
