"""Changes that turn one set of tensors into another, as data.

One edit describes one kind of change, to however many tensors:

    Edit("rename", ("model.{*}",), ("{*}",), …)                               model.a.weight → a.weight, and 99 more
    Edit("concat", ("{*}.q", "{*}.k", "{*}.v"), ("{*}.qkv",), {"axis": 0}, …)

``{*}`` stands for any text. The first, second, … ``{*}`` of a target stands for the same text as that of its source.
`steps` lists every single change by name, and decides if a pattern could be read in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json

Kind = Literal[
    "rename", "transpose", "permute", "reshape", "cast", "map", "dequantize", "quantize",
    "remove-parametrization", "fold-batch-norm", "split", "concat", "stack", "unstack", "tie", "untie", "drop", "zeros",
    "remove-layers", "insert-layers",
]  # fmt: skip
"""What each kind does; words in double backticks are keys of ``details``.

    transpose   dimension i of the target is dimension ``axes[i]`` of the source
    permute     splits dimension ``axis`` into several of lengths ``shape``, permutes these by ``axes``, and merges them
    reshape     the same elements in the same order in ``shape``; ``from`` is the shape before
    cast        to ``dtype``, with rounding only; ``from`` is the type before
    map         applies ``function`` to every element x, and rounds to the tensor's type: ``add`` is x + ``value``,
                ``multiply`` x · ``value``, ``neg-exp`` -exp(x), ``log-neg`` log(-x)
    dequantize  makes a weight in F32 of the tensors that it is stored as, by ``scheme``; ``parts`` says which is which,
                and ``block``, ``bits``, ``zeros`` and others are the scheme's parameters (edits.quantized.schemes)
    quantize    makes codes and scales of a weight, by ``scheme`` (edits.quantizers.schemes)
    remove-parametrization
                computes a weight of the tensors that a network computes it of, by ``scheme``: pruned, weight_norm or
                spectral_norm, along ``axis`` (edits.parametrized.weights)
    fold-batch-norm
                makes of a layer and the batch norm behind it the weight and the bias of both; ``parts`` says which
                source is which, ``axis`` is the weight's dimension of outputs (edits.batch_norms.folded)
    split       one source into several targets along ``axis``, of lengths ``sizes``; with ``blocks``, the source is
                that many blocks of equal length, each with a piece of every target, like the heads of an interleaved
                q, k and v
    concat      the inverse of split
    stack       sources of one shape along a new dimension ``axis``
    unstack     the inverse of stack
    tie         names with a tensor each come to share one; ``new``: the target did not exist before
    untie       the inverse of tie
    zeros       adds a target with the source's type and shape, and all elements 0
    remove-layers, insert-layers
                all tensors of the layers ``layers`` of the stack ``stack``; the layers after them get other numbers by
                a rename, ``layers.{4-7}.{*} → layers.{3-6}.{*}``
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One change: the names before it and after it."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """One kind of change to one or many tensors.

    sources, targets: names before and after, as patterns.
    details:          the kind's parameters (`Kind`).
    steps:            every single change that the patterns stand for.
    """

    kind: Kind
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    details: Mapping[str, Json] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    def to_dict(self) -> dict[str, Json]:
        """The edit as JSON output has it."""
        return {
            "kind": self.kind,
            "sources": list(self.sources),
            "targets": list(self.targets),
            **self.details,
            "steps": [[list(step.sources), list(step.targets)] for step in self.steps],
        }
