"""The computations that can run on ranges of tensors in any process: arguments and results are JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ckptconv.checks.figures import Figures
from ckptconv.checks.stretch import Pair, stretch_figures
from ckptconv.checks.tally import Tally, tally
from ckptconv.checks.tolerance import Tolerance
from ckptconv.core.spelling import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.checks.pool import Scratch
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

Result = TypeVar("Result", Figures, Tally)

Options = Mapping[str, Any]
"""Numbers, by name."""


@dataclass(frozen=True, slots=True)
class Work(Generic[Result]):
    """A computation on elements [start, stop) of one or two tensors; `start` is a multiple of eight.

    result: the type of the result, a dataclass of numbers, tuples of numbers, and arrays of integers.
    run:    takes the tensors, `start`, `stop`, the worker's scratch memory and the options.
    """

    name: str
    result: type[Result]
    run: Callable[..., Result]

    def to_json(self, result: Result) -> Json:
        """A result as JSON."""
        values = {field.name: getattr(result, field.name) for field in fields(result)}
        return {name: to_json(value.tolist() if hasattr(value, "tolist") else value) for name, value in values.items()}

    def from_json(self, document: Json) -> Result:
        """The result that `to_json` spelled."""
        import numpy as np

        values: dict[str, Any] = {}
        for name, value in document.items():
            plain = from_json(value)
            values[name] = np.array(plain) if isinstance(plain, list) else plain
        return self.result(**values)


def _figures(tensors: Sequence[LazyTensor], start: int, stop: int, scratch: Scratch, options: Options) -> Figures:
    pair = Pair(tensors[0], tensors[1], Tolerance(options["rtol"], options["atol"], options["ulp"]))
    return stretch_figures(pair, start, stop, scratch, histogram=options["bins"])


def _tally(tensors: Sequence[LazyTensor], start: int, stop: int, scratch: Scratch, _: Options) -> Tally:
    return tally(tensors[0], start, stop, scratch)


FIGURES = Work("figures", Figures, _figures)
"""How two tensors differ. Options: `rtol`, `atol`, `ulp`, `bins`."""

TALLY = Work("tally", Tally, _tally)
"""What `stats` counts in one tensor."""

WORKS: dict[str, Work[Any]] = {work.name: work for work in (FIGURES, TALLY)}
