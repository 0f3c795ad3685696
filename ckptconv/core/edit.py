"""What turns one set of tensors into another, as data.

One edit says one change once, however many tensors it is made to:

    Edit("rename", ("model.{*}",), ("{*}",), …)                               model.a.weight → a.weight, and 99 more
    Edit("concat", ("{*}.q", "{*}.k", "{*}.v"), ("{*}.qkv",), {"axis": 0}, …)

``{*}`` stands for any text; what the first, second, … of a source's stand for, those of its targets stand for too.
`steps` lists every single change by its names, and is what is meant where a pattern could be read in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json

Kind = Literal[
    "rename", "transpose", "permute", "reshape", "cast", "map", "dequantize", "quantize", "split",
    "concat", "stack", "unstack", "tie", "untie", "drop", "zeros", "remove-layers", "insert-layers",
]  # fmt: skip
"""transpose: dimension i of a target is dimension ``details["axes"][i]`` of its source.
permute: dimension ``details["axis"]`` is taken for several, of lengths ``shape``; these change places as ``axes`` says,
and are one again. reshape: the same elements in the same order, in ``details["shape"]``; ``from`` is the shape before.
cast: to ``details["dtype"]``, with rounding alone; ``from`` is the type before.
map: every element x becomes ``details["function"]`` of it, rounded to the tensor's type: ``add`` is x + ``value``,
``multiply`` x · ``value``, ``neg-exp`` -exp(x), ``log-neg`` log(-x).
dequantize: the tensors that a weight is stored as become the weight in F32, by ``details["scheme"]``; which of them is
what, ``parts`` says, and ``block``, ``bits`` and ``zeros`` what the scheme takes besides: edits.quantized.schemes.
quantize: a weight becomes its codes and their scales, by ``details["scheme"]``: edits.quantizers.schemes.
split, concat: one source into several targets along ``details["axis"]``, of lengths ``sizes``, and the other way round.
With ``blocks``, the whole is that many blocks of equal length, and each has a piece of every part, as the heads of an
interleaved q, k and v. stack, unstack: sources of one shape along a new dimension ``axis``, and the other way round.
tie, untie: names that share one tensor in the one, and each have their own in the other; ``new``: the target is no
tensor of the one.
zeros: the target is a new tensor beside the source, of its type and shape, whose elements are all 0.
remove-layers, insert-layers: all tensors of the layers ``details["layers"]`` of the stack ``details["stack"]``. The
layers behind them get other numbers by a rename, ``layers.{4-7}.{*} → layers.{3-6}.{*}``.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One change: the names before it and after it."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to one or many tensors.

    sources, targets: names before and after, as patterns.
    details:          what the kind needs to be known besides.
    steps:            every change that the patterns stand for.
    """

    kind: Kind
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    details: Mapping[str, Json] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    def to_dict(self) -> dict[str, Json]:
        """The edit as JSON documents spell it."""
        return {
            "kind": self.kind,
            "sources": list(self.sources),
            "targets": list(self.targets),
            **self.details,
            "steps": [[list(step.sources), list(step.targets)] for step in self.steps],
        }
