"""Compares two checkpoints: first finds edits, then compares the rest of tensors, values, ties and metadata.

Equal means equal names, shapes, element types, bits, ties and typed metadata. Container, order, strides and bookkeeping
do not count.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.checks.compare_bytes import find_unequal
from ckptconv.checks.compare_metadata import compare_metadata
from ckptconv.checks.compare_values import compare_values
from ckptconv.checks.composites import compare_composites
from ckptconv.checks.double_rounding import find_rounded_twice
from ckptconv.checks.pool import Pool
from ckptconv.checks.rearranged import find_rearranged
from ckptconv.checks.stretch import Pair
from ckptconv.checks.ties import compare_ties
from ckptconv.checks.wording import tie_finding, value_finding
from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding
from ckptconv.core.text import shape_text
from ckptconv.edits.content import Content, rounded_type
from ckptconv.edits.explain import explain
from ckptconv.edits.explanation import Comparison, Explanation
from ckptconv.edits.patterns import ANY, edits_by_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.checks.compare_metadata import MetadataChange
    from ckptconv.checks.compare_values import Values
    from ckptconv.checks.tolerance import Tolerances
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.core.progress import Progress

CODES = {
    "rename": "renamed", "transpose": "transposed", "reshape": "reshaped", "split": "split", "concat": "concatenated",
    "stack": "stacked", "unstack": "unstacked", "permute": "heads-permuted", "remove-layers": "layers-removed",
    "insert-layers": "layers-inserted",
}  # fmt: skip
"""For each kind of edit that gets a finding of its own, the finding's code."""


@dataclass(slots=True)
class Differences:
    """What differs.

    values:   the figures behind the findings about values and casts.
    metadata: the values behind the findings about metadata.
    partners: for each tensor in `a`, the name of the one in `b` that it is compared with, or None.
    """

    findings: list[Finding] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    values: dict[Finding, Values] = field(default_factory=dict)
    metadata: list[MetadataChange] = field(default_factory=list)
    partners: dict[str, str | None] = field(default_factory=dict)


def compare(
    a: Checkpoint, b: Checkpoint, tolerances: Tolerances, *, headers: bool = False, histograms: bool = False,
    progress: Progress | None = None,
) -> Differences:  # fmt: skip
    """Find everything that differs. Reads all tensors, in constant memory.

    headers:    read no tensor, and compare no values.
    histograms: figures have `bins`.
    """
    rounded = rounded_type(a.all_tensors.values(), b.all_tensors.values())
    content = None if headers else Content(rounded)
    explained = _explain_edits(a, b, content)
    found = Differences(edits=[edit for edit in explained.edits if edit.kind != "drop"])
    found.findings += _unrelated_findings(a, b, explained, content)
    found.findings += [_edit_finding(edit) for edit in found.edits]
    found.partners = dict.fromkeys(a.all_tensors) | {pair.a_name: pair.b_name for pair in explained.comparisons}
    found.partners |= explained.unlike
    drops = [edit for edit in explained.edits if edit.kind == "drop"]
    shared = _report_one_sided(found, a, b, explained)
    for old, name in explained.unlike:
        one, other = shape_text(a.all_tensors[old].info.shape), shape_text(b.all_tensors[name].info.shape)
        found.findings.append(Finding("shape-changed", "error", old, f"{old}: shape {one} → {other}", one, other))
    _report_dtypes(found, a, b, [] if not headers else explained.comparisons, explained.unlike)
    between: dict[str, DType] = {}
    if content is not None:
        groups = _group_by_tensors(explained.comparisons, a, b, tolerances)
        between = _compare_values(found, explained, groups, content, tolerances, progress, histograms=histograms)
    found.edits += _cast_edits(a, b, explained, between)
    untied, tied = _report_ties(found, a, b, explained)
    found.edits = [*untied, *found.edits, *tied, *shared, *drops]
    found.findings += compare_composites(a, b, explained.names)
    changes = compare_metadata(a.metadata, b.metadata, explained.names)
    one_sided = {*explained.removed, *explained.added}
    found.metadata = [change for change in changes if not change.is_place_of(one_sided)]  # they are reported already
    for change in found.metadata:
        one, other = change.texts
        message = f"{change.where}: {one} → {other}"
        found.findings.append(Finding("metadata-changed", "error", change.where, message, one, other))
    return found


def _explain_edits(a: Checkpoint, b: Checkpoint, content: Content | None) -> Explanation:
    """Explain the model's tensors and the extras separately; together if a name is the model's on one side only."""
    if any(name in b.extras for name in a) or any(name in a.extras for name in b):
        return explain(a.all_tensors, b.all_tensors, content)
    model = explain(a, b, content)
    extras = explain(a.extras, b.extras, content) if a.extras or b.extras else Explanation()
    return Explanation(
        [*model.edits, *extras.edits], {**model.names, **extras.names}, [*model.comparisons, *extras.comparisons],
        [*model.unlike, *extras.unlike], [*model.removed, *extras.removed], [*model.added, *extras.added],
    )  # fmt: skip


def _unrelated_findings(a: Checkpoint, b: Checkpoint, explained: Explanation, content: Content | None) -> list[Finding]:
    """A finding if no tensor has a partner on the other side."""
    if explained.comparisons or explained.unlike or not (a.all_tensors and b.all_tensors):
        return []
    means = "its shape" if content is None else "its values"
    return [Finding("unrelated", "info", "", f"no tensor of the one was found in the other, by its name or by {means}")]


def _edit_finding(edit: Edit) -> Finding:
    sources, targets = " + ".join(edit.sources), " + ".join(edit.targets)
    first = edit.steps[0]
    where = (first.sources or first.targets)[0]
    count = len(edit.steps)
    text = f"{sources} → {targets}" if sources and targets else sources or targets
    word = CODES[edit.kind].replace("-", " ")
    message = f"{word}: {text}" + (f" ({count:,} tensors)" if count > 1 else "")
    return Finding(CODES[edit.kind], "error", where, message, sources or None, targets or None)


def _report_one_sided(found: Differences, a: Checkpoint, b: Checkpoint, explained: Explanation) -> list[Edit]:
    """Report names that are on one side only. Returns the edits that give existing tensors additional names.

    These edits come last, since they need the tensors as they are after all other edits, such as casts.
    """
    a_ties, b_ties = ({name: group for group in side.ties for name in group} for side in (a, b))
    for name in explained.removed:
        header = _header_text(a, name)
        other = next((other for other in a_ties.get(name, ()) if other != name), None)
        note = f"; it shared the tensor of {other}" if other is not None else ""
        found.findings.append(Finding("removed", "error", name, f"{name}: removed, {header}{note}", header, None))
    kept = set(explained.names.values())
    keepers = {id(group): next((name for name in group if name in kept), None) for group in b.ties}
    steps = []
    for name in explained.added:
        header = _header_text(b, name)
        keeper = keepers[id(b_ties[name])] if name in b_ties else None
        if keeper is None:
            found.findings.append(Finding("added", "error", name, f"{name}: added, {header}", None, header))
            continue
        steps.append(Step((keeper,), (name,)))
        message = f"{name}: added, sharing the tensor of {keeper}"
        found.findings.append(Finding("tie-made", "error", name, message, None, f"{name} = {keeper}"))
    return edits_by_pattern("tie", steps, {"new": True})


def _header_text(checkpoint: Checkpoint, name: str) -> str:
    info = checkpoint.all_tensors[name].info
    return f"{info.dtype} {shape_text(info.shape)}"


def _report_dtypes(
    found: Differences, a: Checkpoint, b: Checkpoint, comparisons: Sequence[Comparison],
    unlike: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    """Report changed element types of tensors whose values are not compared."""
    for old, name in [*((pair.a_name, pair.b_name) for pair in comparisons), *unlike]:
        one, other = a.all_tensors[old].info.dtype.name, b.all_tensors[name].info.dtype.name
        if one != other:
            message = f"{old}: {one} → {other}"
            found.findings.append(Finding("dtype-changed", "error", old, message, one, other))


def _cast_edits(a: Checkpoint, b: Checkpoint, explained: Explanation, between: Mapping[str, DType]) -> list[Edit]:
    """The casts; one through a type in between is two casts."""
    groups: dict[tuple[str, ...], dict[Step, None]] = {}
    parts = [
        (pair.a_name, pair.b_name) for pair in explained.comparisons if explained.names.get(pair.a_name) != pair.b_name
    ]
    for old, name in dict.fromkeys([*explained.names.items(), *parts]):
        before, after = a.all_tensors[old].info.dtype.name, b.all_tensors[name].info.dtype.name
        types: tuple[str, ...] = (before, between[name].name, after) if name in between else (before, after)
        if len(set(types)) > 1:
            groups.setdefault(types, {})[Step((name,), (name,))] = None
    casts: list[Edit] = []
    for types, steps in groups.items():
        for before, after in pairwise(types):
            details = {"from": before, "dtype": after}
            if len(steps) == len(b.all_tensors) > 1:
                casts.append(Edit("cast", (ANY,), (ANY,), details, tuple(steps)))
            else:
                casts += edits_by_pattern("cast", steps, details)
    return casts


def _compare_values(
    found: Differences, explained: Explanation, groups: Sequence[list[Comparison]], content: Content,
    tolerances: Tolerances, progress: Progress | None, *, histograms: bool,
) -> dict[str, DType]:  # fmt: skip
    """Compare bytes, look for the same numbers in other places, then compute figures of what differs.

    Returns the types to which tensors of `b` were rounded before they got their own, by name.
    """
    pool = Pool(sum(group[0].a.info.nbytes for group in groups), progress)
    same_type = [group for group in groups if group[0].a.info.dtype == group[0].b.info.dtype]
    other_type = [group for group in groups if group[0].a.info.dtype != group[0].b.info.dtype]
    unequal = _find_unequal_groups([group[0] for group in same_type], content, pool)
    changed, rearranging = find_rearranged(
        [*(same_type[i] for i in sorted(unequal)), *other_type],
        lambda pair: explained.names.get(pair.a_name) == pair.b_name,
        content,
        pool,
    )
    found.edits += rearranging
    found.findings += [_edit_finding(edit) for edit in rearranging]
    pairs = [
        Pair(first.a, first.b, tolerances.of(first.a_name, first.b_name)) for first in (group[0] for group in changed)
    ]
    measured = [i for i, pair in enumerate(pairs) if pair.has_figures]
    measured_values = compare_values([pairs[i] for i in measured], pool, histograms=histograms)
    figures = dict(zip(measured, measured_values, strict=True))
    between = _types_between(explained, changed, pairs, figures)
    entries = [
        (comparison, _with_double_rounding(figures.get(i), pairs[i], between.get(comparison.b_name)))
        for i, group in enumerate(changed)
        for comparison in group
    ]
    if not entries:
        return between
    order = {(pair.a_name, pair.b_name): i for i, pair in enumerate(explained.comparisons)}
    for comparison, values in sorted(entries, key=lambda entry: order[entry[0].a_name, entry[0].b_name]):
        for finding in value_finding(comparison, values):
            found.findings.append(finding)
            if values is not None:
                found.values[finding] = values
    return between


def _with_double_rounding(values: Values | None, pair: Pair, between: DType | None) -> Values | None:
    if values is None or between is None:
        return values
    return replace(values, between=between.name, cast=pair.a.info.dtype != pair.b.info.dtype)


def _types_between(
    explained: Explanation, changed: Sequence[list[Comparison]], pairs: Sequence[Pair], figures: Mapping[int, Values]
) -> dict[str, DType]:
    """The type to which a tensor was rounded first, by its name in `b`; only if that holds for all parts of it."""
    explained_by_cast = {i for i, values in figures.items() if values.cast or not values.differing}
    unexplained = {i: pairs[i] for i in figures if i not in explained_by_cast}
    others = {i: pairs[i] for i in figures if i in explained_by_cast}
    by_comparison: dict[tuple[str, str], DType] = {}
    for i, between in find_rounded_twice(unexplained, others).items():
        by_comparison |= {(pair.a_name, pair.b_name): between for pair in changed[i]}
    if not by_comparison:
        return {}
    by_name: dict[str, set[DType | None]] = defaultdict(set)
    for pair in explained.comparisons:
        by_name[pair.b_name].add(by_comparison.get((pair.a_name, pair.b_name)))
    return {name: first for name, (first, *rest) in by_name.items() if first is not None and not rest}


def _find_unequal_groups(comparisons: Sequence[Comparison], content: Content, pool: Pool) -> set[int]:
    """The indices of the comparisons that differ. What was read while looking for edits is not read again."""
    settled = [content.settled(pair.a, pair.b) for pair in comparisons]
    open_indices = [i for i, is_equal in enumerate(settled) if is_equal is None]
    pool.advance(sum(pair.a.info.nbytes for pair, known in zip(comparisons, settled, strict=True) if known is not None))
    unequal = find_unequal([(comparisons[i].a, comparisons[i].b) for i in open_indices], pool)
    return {i for i, is_equal in enumerate(settled) if is_equal is False} | {open_indices[i] for i in unequal}


def _group_by_tensors(
    comparisons: Sequence[Comparison], a: Checkpoint, b: Checkpoint, tolerances: Tolerances
) -> list[list[Comparison]]:
    """The comparisons in groups, so that a pair of tensors with several names is compared only once."""
    a_tied, b_tied = ({name for group in side.ties for name in group} for side in (a, b))
    groups: dict[object, list[Comparison]] = {}
    for pair in comparisons:
        names = pair.a_name, pair.b_name
        key: object = names
        is_tied = pair.a_name in a_tied or pair.b_name in b_tied
        if is_tied and pair.a.alias is not None and pair.b.alias is not None:
            key = (pair.a.alias, pair.b.alias, pair.b.info.shape, tolerances.of(*names))
        groups.setdefault(key, []).append(pair)
    return list(groups.values())


def _report_ties(
    found: Differences, a: Checkpoint, b: Checkpoint, explained: Explanation
) -> tuple[list[Edit], list[Edit]]:
    """Report broken and made ties. Returns the edits that break ties, and those that make them.

    Ties are broken under the old names, before the tensors are changed separately; so undoing can tie them again at the
    end.
    """
    old_name = {new: old for old, new in explained.names.items()}
    cut = {pair.a_name for pair in explained.comparisons} - explained.names.keys() - b.all_tensors.keys()
    untie: list[Step] = []
    tie_again: list[Step] = []
    tie: list[Step] = []
    for change in compare_ties(a, b, explained.names, cut):
        found.findings.append(tie_finding(change))
        largest, *others = sorted(change.groups, key=len, reverse=True)
        if change.made:
            tie += [Step((largest[0],), (name,)) for group in others for name in group]
        else:
            keeper = old_name.get(largest[0], largest[0])
            for group in others:
                first, *rest = (old_name.get(name, name) for name in group)
                untie += [Step((keeper,), (name,)) for name in (first, *rest)]
                tie_again += [Step((first,), (name,)) for name in rest]
    return [*edits_by_pattern("untie", untie), *edits_by_pattern("tie", tie_again)], edits_by_pattern("tie", tie)
