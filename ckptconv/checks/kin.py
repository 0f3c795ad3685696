"""Is a checkpoint that does not fit damaged, or of another architecture that is like the one it was compared with?

Families copy each other's names: BEiT has most of ViT's, MegatronBERT most of BERT's. Damage hits some tensors; what
every layer has or lacks, a module that is unknown, one that is gone with all of its tensors: so a network is built. A
wrong conversion may do that to names as well, and names alone cannot tell which it was.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.names import module_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ckptconv.core.report import Finding

LAYERS = 2
"""Tensors of one kind that are in no layer, or in none of the architecture's, for that to be how it is built, and
tensors of a module that is gone: one alone may have been lost, or have another name."""

SHAPES = 3
"""Tensors of one kind that have another shape: two may follow from one change. Those of another rank, as a
convolution's in place of a linear layer's, do not.
"""

MODULES = 4
"""Modules with tensors of other shapes, whatever their kinds."""

_NUMBER = re.compile(r"\d+")


class Differences(NamedTuple):
    """How a network is built otherwise than an architecture.

    Kinds of tensors: those that it has more, those that it lacks, those that have other shapes.
    """

    more: list[str]
    gone: list[str]
    resized: list[str]


def kind_of(name: str) -> str:
    """A name without its numbers: ``blocks.*.attn.q_bias``."""
    return _NUMBER.sub("*", name)


def differences(
    symptoms: Sequence[Finding],
    explained: Sequence[Finding],
    names: Collection[str],
    expected: Collection[str],
    known: Collection[str] = (),
) -> Differences:
    """How the checkpoint's network is built otherwise than the architecture; nothing where all may be damage.

    symptoms: what a strict comparison found, without prefixes. explained: the same in fewer words, where what has no
    partner is as it was. names: those of the checkpoint, without prefixes. expected: those of the architecture as the
    params make it; known: those of the checkpoint that it has with some params.
    """
    missing, unexpected = (_named(symptoms, code) for code in ("missing-tensor", "unexpected-tensor"))
    there, lost, extra = (Counter(map(kind_of, each)) for each in (names, missing, unexpected))
    gone = [kind for kind, count in lost.items() if count >= LAYERS and not there[kind]]
    more = [kind for kind, count in extra.items() if LAYERS <= there[kind] <= count]
    some = _modules_of_some_layers([name for name in missing if there[kind_of(name)]], names)
    if all(not there[kind] or kind in some for kind in lost):  # else some is damage, and so may be the rest
        gone += some + _whole_modules(missing, names, gone)
    if not set(known).intersection(unexpected):  # half of a part that it could have: the other half is lost
        alone = {*_named(explained, "unexpected-tensor"), *_whole_modules(unexpected, expected, ())}
        more += [name for name in _outside(unexpected, names, expected) if name in alone and kind_of(name) not in more]
    resized = _named(explained, "shape-mismatch")
    shapes, enough = Counter(map(kind_of, resized)), 1 if len(set(map(module_of, resized))) >= MODULES else SHAPES
    ranks = Counter(kind_of(one.where) for one in explained if one.code == "shape-mismatch" and _is_of_other_rank(one))
    other = [kind for kind, count in shapes.items() if count >= enough or ranks[kind] >= LAYERS]
    return Differences(more, gone, other)


def _is_of_other_rank(finding: Finding) -> bool:
    """Whether a shape, such as ``[4, ?]``, has other dimensions than the one that is expected has."""
    return len((finding.expected or "").split(",")) != len((finding.found or "").split(","))


def _modules_of_some_layers(missing: Sequence[str], names: Collection[str]) -> list[str]:
    """The kinds of missing names that are all in modules of several tensors, each gone from several layers.

    Of the layers something else is there: one that is gone whole is lost.
    """
    sizes, there = Counter(map(module_of, missing)), set(map(module_of, names))
    layers = {name[: number.end()] for name in names for number in _NUMBER.finditer(name)}
    lacking = {
        module
        for module, count in sizes.items()
        if count >= LAYERS and module not in there and _layer_of(module) in layers
    }
    often = Counter(map(kind_of, lacking))
    lost, known = (
        Counter(map(kind_of, missing)),
        Counter(kind_of(n) for n in missing if module_of(n) in lacking and often[kind_of(module_of(n))] >= LAYERS),
    )
    return [kind for kind, count in lost.items() if known[kind] == count]


def _layer_of(module: str) -> str:
    """``blocks.3`` of ``blocks.3.attn.norm`` and of ``blocks.3.down.0``."""
    return next((module[: n.end()] for n in reversed([*_NUMBER.finditer(module)]) if n.end() < len(module)), "")


def _outside(unexpected: Iterable[str], names: Collection[str], expected: Collection[str]) -> list[str]:
    """The unexpected names in none of the architecture's stacks of layers, nor in a module that it has.

    ``proj.bias_orig`` is no new part beside ``proj.weight``, nor ``lm_head.weight_orig`` without ``lm_head.weight``,
    which may be tied.
    """
    stacks = {name[: number.start()] for name in expected for number in _NUMBER.finditer(name)}
    halves = {module_of(name) for name in expected if name.endswith(".weight") or name not in names} - {""}
    return [
        name
        for name in unexpected
        if module_of(name) not in halves and all(name[: n.start()] not in stacks for n in _NUMBER.finditer(name))
    ]


def _named(findings: Iterable[Finding], code: str) -> list[str]:
    return [finding.where for finding in findings if finding.code == code]


def _whole_modules(names: Iterable[str], others: Iterable[str], known: Collection[str]) -> list[str]:
    """The names of modules of several tensors, outside of all layers, of which the others have none."""
    alone = [name for name in names if "." in name and not _NUMBER.search(name) and name not in known]
    sizes = Counter(map(module_of, alone))
    there = set(map(module_of, others))
    return [name for name in alone if sizes[module_of(name)] >= LAYERS and module_of(name) not in there]
