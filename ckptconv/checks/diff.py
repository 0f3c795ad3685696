"""What differs between two checkpoints: edits first, then what is left of tensors, values, ties and metadata.

Equal means names, shapes, element types, bits, ties and typed metadata; not container, order, strides, bookkeeping.
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
from ckptconv.checks.pool import Pool
from ckptconv.checks.rearranged import find_rearranged
from ckptconv.checks.stretch import Pair
from ckptconv.checks.ties import compare_ties
from ckptconv.checks.twice import find_rounded_twice
from ckptconv.checks.wording import tie_finding, value_finding
from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding
from ckptconv.core.text import shape_text
from ckptconv.edits.content import Content, rounded_type
from ckptconv.edits.explain import explain
from ckptconv.edits.explanation import Comparison, Explanation
from ckptconv.edits.patterns import ANY, edits

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
"""The findings of edits that are not findings of single tensors."""


@dataclass(slots=True)
class Differences:
    """What was found. `values` has the figures behind the findings of values and casts; `metadata`, the values behind
    those of metadata; `partners` says for each tensor of the one what it is compared with in the other, None where
    nothing is.
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
    """Everything that differs. With `headers`, no tensor byte is read; else all are, in constant memory. With
    `histograms`, figures have `bins`.
    """
    rounded = rounded_type(a.all_tensors.values(), b.all_tensors.values())
    content = None if headers else Content(rounded)
    explained = _explained(a, b, content)
    found = Differences(edits=[edit for edit in explained.edits if edit.kind != "drop"])
    found.findings += _unrelated(a, b, explained, content)
    found.findings += [_edit_finding(edit) for edit in found.edits]
    found.partners = dict.fromkeys(a.all_tensors) | {one.a_name: one.b_name for one in explained.comparisons}
    found.partners |= explained.unlike
    drops = [edit for edit in explained.edits if edit.kind == "drop"]
    shared = _one_sided(found, a, b, explained)
    for old, name in explained.unlike:
        one, other = shape_text(a.all_tensors[old].info.shape), shape_text(b.all_tensors[name].info.shape)
        found.findings.append(Finding("shape-changed", "error", old, f"{old}: shape {one} → {other}", one, other))
    _dtypes_alone(found, a, b, [] if not headers else explained.comparisons, explained.unlike)
    between: dict[str, DType] = {}
    if content is not None:
        groups = _once(explained.comparisons, a, b, tolerances)
        between = _values(found, explained, groups, content, tolerances, progress, histograms=histograms)
    found.edits += _casts(a, b, explained, between)
    untied, tied = _ties(found, a, b, explained)
    found.edits = [*untied, *found.edits, *tied, *shared, *drops]
    found.findings += compare_composites(a, b, explained.names)
    found.metadata = compare_metadata(a.metadata, b.metadata, explained.names)
    for change in found.metadata:
        one, other = change.texts
        message = f"{change.where}: {one} → {other}"
        found.findings.append(Finding("metadata-changed", "error", change.where, message, one, other))
    return found


def _explained(a: Checkpoint, b: Checkpoint, content: Content | None) -> Explanation:
    """The model's tensors among themselves, and the extras; all at once where a name changed its role."""
    if any(name in b.extras for name in a) or any(name in a.extras for name in b):
        return explain(a.all_tensors, b.all_tensors, content)
    model = explain(a, b, content)
    extras = explain(a.extras, b.extras, content) if a.extras or b.extras else Explanation()
    return Explanation(
        [*model.edits, *extras.edits], {**model.names, **extras.names}, [*model.comparisons, *extras.comparisons],
        [*model.unlike, *extras.unlike], [*model.removed, *extras.removed], [*model.added, *extras.added],
    )  # fmt: skip


def _unrelated(a: Checkpoint, b: Checkpoint, explained: Explanation, content: Content | None) -> list[Finding]:
    """What two sides of which no tensor has a partner are told to be; else nothing."""
    if explained.comparisons or explained.unlike or not (a.all_tensors and b.all_tensors):
        return []
    other = "its shape" if content is None else "its values"
    return [Finding("unrelated", "info", "", f"no tensor of the one was found in the other, by its name or by {other}")]


def _edit_finding(edit: Edit) -> Finding:
    sources, targets = " + ".join(edit.sources), " + ".join(edit.targets)
    first = edit.steps[0]
    where = (first.sources or first.targets)[0]
    count = len(edit.steps)
    text = f"{sources} → {targets}" if sources and targets else sources or targets
    word = CODES[edit.kind].replace("-", " ")
    message = f"{word}: {text}" + (f" ({count:,} tensors)" if count > 1 else "")
    return Finding(CODES[edit.kind], "error", where, message, sources or None, targets or None)


def _one_sided(found: Differences, a: Checkpoint, b: Checkpoint, explained: Explanation) -> list[Edit]:
    """Names of one side alone. Gives the edits that make new names of tensors that are there, as these are in the end:
    whatever else is done to a tensor, a cast say, comes before.
    """
    ours, theirs = ({name: group for group in side.ties for name in group} for side in (a, b))
    for name in explained.removed:
        shape = _header(a, name)
        other = next((other for other in ours.get(name, ()) if other != name), None)
        note = f"; it shared the tensor of {other}" if other is not None else ""
        found.findings.append(Finding("removed", "error", name, f"{name}: removed, {shape}{note}", shape, None))
    shared = set(explained.names.values())
    keepers = {id(group): next((name for name in group if name in shared), None) for group in b.ties}
    steps = []
    for name in explained.added:
        shape = _header(b, name)
        keeper = keepers[id(theirs[name])] if name in theirs else None
        if keeper is None:
            found.findings.append(Finding("added", "error", name, f"{name}: added, {shape}", None, shape))
            continue
        steps.append(Step((keeper,), (name,)))
        message = f"{name}: added, sharing the tensor of {keeper}"
        found.findings.append(Finding("tie-made", "error", name, message, None, f"{name} = {keeper}"))
    return edits("tie", steps, {"new": True})


def _header(checkpoint: Checkpoint, name: str) -> str:
    info = checkpoint.all_tensors[name].info
    return f"{info.dtype} {shape_text(info.shape)}"


def _dtypes_alone(
    found: Differences, a: Checkpoint, b: Checkpoint, comparisons: Sequence[Comparison],
    unlike: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    """Element types that changed, of tensors whose values are not compared."""
    for old, name in [*((c.a_name, c.b_name) for c in comparisons), *unlike]:
        one, other = (side.all_tensors[key].info.dtype.name for side, key in ((a, old), (b, name)))
        if one != other:
            message = f"{old}: {one} → {other}"
            found.findings.append(Finding("dtype-changed", "error", old, message, one, other))


def _casts(a: Checkpoint, b: Checkpoint, explained: Explanation, between: Mapping[str, DType]) -> list[Edit]:
    """The casts, those by way of a type between as two."""
    groups: dict[tuple[str, ...], dict[Step, None]] = {}
    parts = [(one.a_name, one.b_name) for one in explained.comparisons if explained.names.get(one.a_name) != one.b_name]
    for old, name in dict.fromkeys([*explained.names.items(), *parts]):
        one, other = a.all_tensors[old].info.dtype.name, b.all_tensors[name].info.dtype.name
        way: tuple[str, ...] = (one, between[name].name, other) if name in between else (one, other)
        if len(set(way)) > 1:
            groups.setdefault(way, {})[Step((name,), (name,))] = None
    found: list[Edit] = []
    for way, steps in groups.items():
        for one, other in pairwise(way):
            details = {"from": one, "dtype": other}
            if len(steps) == len(b.all_tensors) > 1:
                found.append(Edit("cast", (ANY,), (ANY,), details, tuple(steps)))
            else:
                found += edits("cast", steps, details)
    return found


def _values(
    found: Differences, explained: Explanation, groups: Sequence[list[Comparison]], content: Content,
    tolerances: Tolerances, progress: Progress | None, *, histograms: bool,
) -> dict[str, DType]:  # fmt: skip
    """Compare bytes, look for the same numbers in other places, then take figures of what differs. Gives the types to
    which tensors of `b` were rounded before they got their own.
    """
    pool = Pool(sum(group[0].a.info.nbytes for group in groups), progress)
    same = [group for group in groups if group[0].a.info.dtype == group[0].b.info.dtype]
    cast = [group for group in groups if group[0].a.info.dtype != group[0].b.info.dtype]
    unequal = _unequal([group[0] for group in same], content, pool)
    changed, moved = find_rearranged(
        [*(same[i] for i in sorted(unequal)), *cast],
        lambda one: explained.names.get(one.a_name) == one.b_name,
        content,
        pool,
    )
    found.edits += moved
    found.findings += [_edit_finding(edit) for edit in moved]
    pairs = [Pair(g[0].a, g[0].b, tolerances.of(g[0].a_name, g[0].b_name)) for g in changed]
    measured = [i for i, pair in enumerate(pairs) if pair.has_figures]
    values_of = compare_values([pairs[i] for i in measured], pool, histograms=histograms)
    figures = dict(zip(measured, values_of, strict=True))
    between = _between(explained, changed, pairs, figures)
    entries = [(one, _told(figures.get(i), pairs[i], between.get(one.b_name)))
               for i, group in enumerate(changed) for one in group]  # fmt: skip
    order = {(one.a_name, one.b_name): i for i, one in enumerate(explained.comparisons)} if entries else {}
    for one, values in sorted(entries, key=lambda entry: order[entry[0].a_name, entry[0].b_name]):
        for finding in value_finding(one, values):
            found.findings.append(finding)
            if values is not None:
                found.values[finding] = values
    return between


def _told(values: Values | None, pair: Pair, between: DType | None) -> Values | None:
    if values is None or between is None:
        return values
    return replace(values, between=between.name, cast=pair.a.info.dtype != pair.b.info.dtype)


def _between(
    explained: Explanation, changed: Sequence[list[Comparison]], pairs: Sequence[Pair], figures: Mapping[int, Values]
) -> dict[str, DType]:
    """By the name in `b`, to which type tensors were rounded first, all parts of one alike."""
    told = {i for i, values in figures.items() if values.cast or not values.differing}
    ways: dict[tuple[str, str], DType] = {}
    left, others = ({i: pairs[i] for i in figures if (i in told) is one} for one in (False, True))
    for i, between in find_rounded_twice(left, others).items():
        ways |= {(one.a_name, one.b_name): between for one in changed[i]}
    if not ways:
        return {}
    found: dict[str, set[DType | None]] = defaultdict(set)
    for one in explained.comparisons:
        found[one.b_name].add(ways.get((one.a_name, one.b_name)))
    return {name: way for name, (way, *others) in found.items() if way is not None and not others}


def _unequal(comparisons: Sequence[Comparison], content: Content, pool: Pool) -> set[int]:
    """Which of them differ; those that were read as a whole while edits were sought are not read again."""
    settled = [content.settled(one.a, one.b) for one in comparisons]
    asked = [i for i, is_equal in enumerate(settled) if is_equal is None]
    pool.advance(sum(one.a.info.nbytes for one, known in zip(comparisons, settled, strict=True) if known is not None))
    found = find_unequal([(comparisons[i].a, comparisons[i].b) for i in asked], pool)
    return {i for i, is_equal in enumerate(settled) if is_equal is False} | {asked[i] for i in found}


def _once(
    comparisons: Sequence[Comparison], a: Checkpoint, b: Checkpoint, tolerances: Tolerances
) -> list[list[Comparison]]:
    """The comparisons, those of one pair of tensors that stands under several names together."""
    ours, theirs = ({name for group in side.ties for name in group} for side in (a, b))
    groups: dict[object, list[Comparison]] = {}
    for one in comparisons:
        names = one.a_name, one.b_name
        key: object = names
        if (names[0] in ours or names[1] in theirs) and one.a.alias is not None and one.b.alias is not None:
            key = (one.a.alias, one.b.alias, one.b.info.shape, tolerances.of(*names))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _ties(found: Differences, a: Checkpoint, b: Checkpoint, explained: Explanation) -> tuple[list[Edit], list[Edit]]:
    """Ties broken and made. Gives the edits: what is untied is so by its old names, before the one is changed and the
    other is not, so that it can be tied again after all that is undone.
    """
    here = {new: old for old, new in explained.names.items()}
    cut = {one.a_name for one in explained.comparisons} - explained.names.keys() - b.all_tensors.keys()
    untied: list[Step] = []
    left: list[Step] = []
    tied: list[Step] = []
    for change in compare_ties(a, b, explained.names, cut):
        found.findings.append(tie_finding(change))
        most, *others = sorted(change.groups, key=len, reverse=True)
        if change.made:
            tied += [Step((most[0],), (name,)) for group in others for name in group]
        else:
            old = [tuple(here.get(name, name) for name in group) for group in (most, *others)]
            untied += [Step((old[0][0],), (name,)) for group in old[1:] for name in group]
            left += [Step((group[0],), (name,)) for group in old[1:] for name in group[1:]]
    return [*edits("untie", untied), *edits("tie", left)], edits("tie", tied)
