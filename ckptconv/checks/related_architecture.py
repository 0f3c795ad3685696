"""Tells a damaged checkpoint from one of another, related architecture.

Families copy each other's names: BEiT has most of ViT's, MegatronBERT most of BERT's. Damage hits single tensors. A
kind of tensor that every layer has or lacks, an unknown module, a module that is missing with all of its tensors: these
show that the network is built differently. A wrong conversion may have the same effect, and names alone cannot tell
which it was.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.names import module_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ckptconv.core.report import Finding

MIN_TENSORS = 2
"""How many tensors of one kind, or of one module, have to be missing or new to show that the network is built
differently: a single one may have been lost, or have another name.
"""

MIN_RESIZED = 3
"""How many tensors of one kind must have another shape: two may follow from a single change. Tensors of another rank,
such as a convolution's in place of a linear layer's, do not, and two of them are enough.
"""

MANY_MODULES = 4
"""With other shapes in this many modules, a single tensor of a kind is enough."""

_NUMBER = re.compile(r"\d+")


class Differences(NamedTuple):
    """How a network is built differently from an architecture, by kinds of tensors (`kind_of`).

    more:    kinds that only the network has.
    gone:    kinds that the network lacks.
    resized: kinds with other shapes.
    """

    more: list[str]
    gone: list[str]
    resized: list[str]


def kind_of(name: str) -> str:
    """A tensor's name without its numbers: ``blocks.*.attn.q_bias``."""
    return _NUMBER.sub("*", name)


def built_differently(
    symptoms: Sequence[Finding],
    explained: Sequence[Finding],
    names: Collection[str],
    expected: Collection[str],
    known: Collection[str] = (),
) -> Differences:
    """How the checkpoint's network is built differently from the architecture; nothing if it may just be damaged.

    symptoms:  the findings of a strict comparison, without prefixes.
    explained: the same with causes in place of symptoms; tensors without a partner are still in it.
    names:     the checkpoint's names, without prefixes.
    expected:  the architecture's names with the params that were bound.
    known:     the checkpoint's names that the architecture has with some params.
    """
    missing = _tensors_with(symptoms, "missing-tensor")
    unexpected = _tensors_with(symptoms, "unexpected-tensor")
    present = Counter(map(kind_of, names))
    missing_kinds, unexpected_kinds = Counter(map(kind_of, missing)), Counter(map(kind_of, unexpected))

    gone = [kind for kind, count in missing_kinds.items() if count >= MIN_TENSORS and not present[kind]]
    from_some_layers = _kinds_gone_from_some_layers([name for name in missing if present[kind_of(name)]], names)
    # a kind that is missing in some places only is damage, and then so may be the rest
    if all(not present[kind] or kind in from_some_layers for kind in missing_kinds):
        gone += from_some_layers + _whole_modules(missing, names, gone)

    more = [kind for kind, count in unexpected_kinds.items() if MIN_TENSORS <= present[kind] <= count]
    # a name that the architecture may have is half of an optional part, whose other half may be lost
    if not set(known).intersection(unexpected):
        without_partner = {*_tensors_with(explained, "unexpected-tensor"), *_whole_modules(unexpected, expected, ())}
        new = [name for name in _outside_of_stacks(unexpected, names, expected) if name in without_partner]
        more += [name for name in new if kind_of(name) not in more]

    resized = _tensors_with(explained, "shape-mismatch")
    enough = 1 if len(set(map(module_of, resized))) >= MANY_MODULES else MIN_RESIZED
    other_ranks = Counter(
        kind_of(finding.where) for finding in explained if finding.code == "shape-mismatch" and _has_other_rank(finding)
    )
    resized_kinds = [
        kind
        for kind, count in Counter(map(kind_of, resized)).items()
        if count >= enough or other_ranks[kind] >= MIN_TENSORS
    ]
    return Differences(more, gone, resized_kinds)


def _has_other_rank(finding: Finding) -> bool:
    """Whether the shape that was found, such as ``[4, ?]``, has another number of dimensions than the expected one."""
    return len((finding.expected or "").split(",")) != len((finding.found or "").split(","))


def _kinds_gone_from_some_layers(missing: Sequence[str], names: Collection[str]) -> list[str]:
    """The kinds whose missing tensors are all in modules of several tensors, each missing from several layers.

    Something else of these layers is present: a layer that is missing as a whole has been lost.
    """
    sizes, present = Counter(map(module_of, missing)), set(map(module_of, names))
    layers = {name[: number.end()] for name in names for number in _NUMBER.finditer(name)}
    gone_modules = {
        module
        for module, count in sizes.items()
        if count >= MIN_TENSORS and module not in present and _layer_of(module) in layers
    }
    module_counts = Counter(map(kind_of, gone_modules))
    in_gone_modules = Counter(
        kind_of(name)
        for name in missing
        if module_of(name) in gone_modules and module_counts[kind_of(module_of(name))] >= MIN_TENSORS
    )
    return [kind for kind, count in Counter(map(kind_of, missing)).items() if in_gone_modules[kind] == count]


def _layer_of(module: str) -> str:
    """The layer that a module lies in: ``blocks.3`` for ``blocks.3.attn.norm`` and for ``blocks.3.down.0``."""
    for number in reversed([*_NUMBER.finditer(module)]):
        if number.end() < len(module):
            return module[: number.end()]
    return ""


def _outside_of_stacks(unexpected: Iterable[str], names: Collection[str], expected: Collection[str]) -> list[str]:
    """The unexpected names that are in none of the architecture's stacks of layers, and in none of its modules.

    ``proj.bias_orig`` is not a new part beside ``proj.weight``, nor is ``lm_head.weight_orig`` without
    ``lm_head.weight``, which may be tied.
    """
    stacks = {name[: number.start()] for name in expected for number in _NUMBER.finditer(name)}
    modules = {module_of(name) for name in expected if name.endswith(".weight") or name not in names} - {""}
    return [
        name
        for name in unexpected
        if module_of(name) not in modules and all(name[: n.start()] not in stacks for n in _NUMBER.finditer(name))
    ]


def _tensors_with(findings: Iterable[Finding], code: str) -> list[str]:
    """The tensors that findings of this code are about."""
    return [finding.where for finding in findings if finding.code == code]


def _whole_modules(names: Iterable[str], others: Iterable[str], known: Collection[str]) -> list[str]:
    """The names in modules of several tensors outside of all layers, of which the others have no tensor."""
    candidates = [name for name in names if "." in name and not _NUMBER.search(name) and name not in known]
    sizes = Counter(map(module_of, candidates))
    present = set(map(module_of, others))
    return [name for name in candidates if sizes[module_of(name)] >= MIN_TENSORS and module_of(name) not in present]
