"""What `inspect` prints of a checkpoint: a header, the tensors, the metadata, the bookkeeping."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.text import adapter, composite
from ckptconv.cli.text.common import approximately, fields, findings, section, size, table
from ckptconv.cli.text.graph import graph_rows
from ckptconv.cli.text.metadata import attributes, entries, shortened, spelled
from ckptconv.cli.text.tree import Columns, flat, tree
from ckptconv.core.metadata import RUNS, StateDict, TensorRef, nodes_of
from ckptconv.core.text import cut, listed, plural

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from ckptconv.api.inspect import Inspection
    from ckptconv.api.inspecting.uses import OpaqueUse
    from ckptconv.checks.stats import Stats
    from ckptconv.cli.text.tree import Kind
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import Opaque
    from ckptconv.core.tensor import LazyTensor

STATS = ("min", "max", "mean", "std", "nan", "inf", "zeros")
"""The columns that --stats adds."""

MOST_OBJECTS = 20
"""Opaque objects and calls that are listed; --json has all of them."""

MOST_TIED = 8
"""Names of a tie that are listed."""

CALL = 500
"""Characters of a call that are shown."""

_BECOMES = {"called": "a call, not made", "handed": "may be called"}
"""What is said of an object, by how it would be made; all else is data."""

_HUES = {"plain": "green", "opaque": "yellow", "would run code": "red"}


def verdict(inspection: Inspection) -> str:
    """The verdict and what it means."""
    uses = inspection.opaque
    calls = [use for use in uses if use.runs]
    asked = listed(list(dict.fromkeys(use.only_if for use in inspection.runs_if)), 2)
    match inspection.verdict:
        case "plain" if inspection.absent is not None:
            return "nothing in it was found to run" + (f" but with {asked}" if asked else "")
        case "plain":
            return "tensors and plain data, nothing that runs" + (f" but with {asked}" if asked else "")
        case "opaque":
            what = plural(len(uses), "object") if uses else "names"
            whose = "an unknown class" if len(uses) == 1 else "unknown classes"
            runs = f"nothing was found to run{f' but with {asked}' if asked else ''}"
            return f"{what} of {whose}, shown as data; {runs}"
        case _:
            return _runs(calls)


def _runs(uses: list[OpaqueUse]) -> str:
    """What would be called, or may be, and by whom."""
    loaders = listed(list(dict.fromkeys(use.by for use in uses)), 3)
    calls = [use for use in uses if use.node.how == "called"]
    named = listed([printable(name) for name in dict.fromkeys(use.node.name for use in calls or uses)], 3)
    if calls:
        return f"loading it with {loaders} would make {plural(len(calls), 'call')} ({named}); none was made here"
    return f"loading it with {loaders} may call {named}, which can run anything and which no data needs"


def page(inspection: Inspection) -> list[str]:
    """Everything that a person wants to know first."""
    checkpoint, stats = inspection.checkpoint, inspection.stats
    ties = checkpoint.ties
    tied = {name: names[0] for names in ties for name in names[1:]}
    lines = [style(printable(os.fspath(inspection.path)), "bold"), *fields(_header(inspection, ties, tied))]
    shown = checkpoint.notes.graph is not None  # below, with what it is made of
    lines += findings([finding for finding in inspection.findings if not (shown and finding.code == "graph")])
    composites = checkpoint.composites
    columns, kind = _tree_columns(checkpoint, tied, stats), _kind(checkpoint)
    states = any(finding.code == "optimizer" for finding in checkpoint.findings)
    for title, tensors, make in (
        ("tensors", dict(checkpoint), _make(checkpoint) if states else None),
        ("tensors outside of the model", checkpoint.extras, _make(checkpoint)),
    ):
        if tensors:
            names = composite.with_wholes(tensors, composites)
            rows = tree(names, tied, columns, kind, fold=stats is None, heads=stats is not None, make=make)
            lines += section(title, rows)
    listed = {key: value for key, value in checkpoint.metadata.items() if value != TensorRef(str(key))}
    lines += section("metadata", entries(listed))  # a tensor under its own name stands among the tensors
    lines += section("what the object holds", attributes(checkpoint.root) if not checkpoint.all_tensors else [])
    lines += section("objects that were not built", _objects(inspection))
    lines += section("what runs only if it is asked for", _runs_if(inspection))
    if inspection.verdict != "plain":
        heading = "names that the pickles mention" if inspection.beside.globals else "names that the pickle mentions"
        lines += section(heading, _globals(inspection))
    lines += section("members of the archive", _members(checkpoint))
    lines += section("graph", fields(graph_rows(checkpoint.notes.graph), indent=""))
    lines += section("notes", fields(_notes(inspection), indent=""))
    return lines


def _more(names: list[str]) -> list[str]:
    return [f"{len(names) - MOST_TIED:,} more"] if len(names) > MOST_TIED else []


def listing(inspection: Inspection) -> list[str]:
    """One line for each tensor, extras too."""
    tensors, stats = inspection.checkpoint.all_tensors, inspection.stats
    columns = _list_columns(inspection, stats)
    return flat(list(tensors), columns)


def _header(inspection: Inspection, ties: list[list[str]], tied: Mapping[str, str]) -> list[tuple[str, str]]:
    checkpoint, said = inspection.checkpoint, inspection.verdict
    judged = ("verdict", f"{style(said, _HUES[said])}: {verdict(inspection)}")
    if inspection.absent is not None:
        return [("format", checkpoint.format), ("size", _file_size(inspection.file_size)), judged]
    nbytes = sum(tensor.info.nbytes for name, tensor in checkpoint.items() if name not in tied)
    rows = [
        ("format", printable(checkpoint.format)),
        ("file size", _file_size(inspection.file_size)),
        ("model", _parameters(inspection.parameters, nbytes)),
        ("tensors", _tensors(checkpoint)),
    ]
    if checkpoint.extras:
        outside = sum(tensor.info.nbytes for name, tensor in checkpoint.extras.items() if name not in tied)
        rows.append(("extras", f"{_tensors(checkpoint.extras)} ({size(outside)})"))
    rows += composite.rows(checkpoint)
    if quantized := inspection.quantized:
        kinds = ", ".join(f"{kind} ×{count:,}" for kind, count in quantized.items())
        how = (
            "convert --dequantize makes plain weights" if inspection.plain is not None else "counted as they are stored"
        )
        rows.append(("quantized", f"{kinds}; {how}"))
    rows += adapter.rows(inspection.adapter, os.fspath(inspection.path))
    if tied:
        groups = [" = ".join([*map(printable, names[:MOST_TIED]), *_more(names)]) for names in ties]
        rows.append(("ties", listed(groups, 2)))
    return [*rows, judged, *digest(inspection)]


def _file_size(nbytes: int) -> str:
    return size(nbytes) if nbytes < 1000 else f"{size(nbytes)} ({nbytes:,} bytes)"


def _parameters(count: int, nbytes: int) -> str:
    about = f"{approximately(count)}, " if count >= 1_000_000 else ""
    return f"{plural(count, 'parameter')} ({about}{size(nbytes)})"


def _tensors(tensors: Mapping[str, LazyTensor]) -> str:
    dtypes = Counter(tensor.info.dtype.name for tensor in tensors.values())
    kinds = listed([f"{printable(name)} ×{count:,}" for name, count in dtypes.most_common()], 8)
    return f"{len(tensors):,}: {kinds}" if kinds else "none"


def digest(inspection: Inspection) -> list[tuple[str, str]]:
    """The digest's row of the header: what was computed, what the file records, whether they agree."""
    recorded = inspection.checkpoint.notes.digest
    if inspection.digest is None:
        return [("digest", f"{printable(recorded)} (recorded; --digest checks it)")] if recorded else []
    if inspection.digest_holds is None:
        return [("digest", f"{inspection.digest} (the file records none)")]
    if inspection.digest_holds:
        return [("digest", f"{inspection.digest} ({style('as recorded', 'green')})")]
    told = style("NOT AS RECORDED", "red")
    return [("digest", f"{inspection.digest} ({told}: the file says {printable(str(recorded))})")]


def _shape(shape: Iterable[int], comma: str = ", ") -> str:
    return f"[{comma.join(map(str, shape))}]"


def _tree_columns(checkpoint: Checkpoint, tied: Mapping[str, str], stats: Mapping[str, Stats | None] | None) -> Columns:
    tensors, composites = checkpoint.all_tensors, checkpoint.composites

    def cells(name: str) -> list[str]:
        whole = composites.get(name)
        info = whole or tensors[name].info
        note = [composite.how(whole)] if whole else []
        note += [f"= {printable(tied[name])}"] if name in tied else []
        figures = _figures(stats, name) if name in tensors else ["" for _ in _heads(stats)]
        return [info.dtype.name, _shape(info.shape), *figures, *note]

    return Columns(["DTYPE", "SHAPE", *_heads(stats)], frozenset(range(2, 2 + len(_heads(stats)))), cells)


def _kind(checkpoint: Checkpoint) -> Kind:
    tensors, composites = checkpoint.all_tensors, checkpoint.composites

    def kind(name: str) -> Hashable:
        if name in composites:
            return composites[name].summary
        info = tensors[name].info
        return info.dtype.name, info.shape

    return kind


def _make(checkpoint: Checkpoint) -> Kind:
    """As `_kind`, whatever the shape: an optimizer has states of one make for parameters of all shapes."""
    tensors, composites = checkpoint.all_tensors, checkpoint.composites
    return lambda name: composites[name].summary if name in composites else tensors[name].info.dtype.name


def _list_columns(inspection: Inspection, stats: Mapping[str, Stats | None] | None) -> Columns:
    tensors, extras, tied = (
        inspection.checkpoint.all_tensors, inspection.checkpoint.extras, inspection.checkpoint.tied_to,
    )  # fmt: skip
    parts = composite.notes(inspection.checkpoint)

    def cells(name: str) -> list[str]:
        info = tensors[name].info
        notes = [f"({parts[name]})"] if name in parts else []
        notes += [f"={printable(tied[name])}"] if name in tied else []
        notes += ["extra"] if name in extras else []
        return [info.dtype.name, _shape(info.shape, ","), str(info.nbytes), *_figures(stats, name), *notes]

    heads = ["DTYPE", "SHAPE", "BYTES", *_heads(stats)]
    return Columns(heads, frozenset(range(2, len(heads))), cells)


def _heads(stats: Mapping[str, Stats | None] | None) -> list[str]:
    return [] if stats is None else [name.upper() for name in STATS]


def _figures(stats: Mapping[str, Stats | None] | None, name: str) -> list[str]:
    return [] if stats is None else [text for _, text in statistics(stats[name])]


def statistics(stats: Stats | None) -> list[tuple[str, str]]:
    """The statistics of a tensor, by name."""
    values = {} if stats is None else stats.to_dict()
    return [(name, number(values.get(name))) for name in STATS]


def number(value: float | int | None) -> str:
    """A statistic, four digits of it; counts and other whole numbers in full."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _objects(inspection: Inspection) -> list[str]:
    wholes = [use for use in inspection.opaque if not use.part]
    uses = sorted(wholes, key=lambda use: use.node.how not in RUNS)
    rows = []
    for use in uses[:MOST_OBJECTS]:
        where = shortened(printable(use.where)) or "the root"
        what = _BECOMES.get(use.node.how, "kept as data")
        rows.append([where, what, _told(use.node)])
    lines = table(rows)
    if (more := len(inspection.opaque) - len(rows)) > 0:
        rest = f"{more:,} of their parts" if len(uses) <= MOST_OBJECTS else f"{more:,} more"
        lines.append(f"… and {rest}; --json lists all")
    return lines


def _runs_if(inspection: Inspection) -> list[str]:
    uses = inspection.runs_if
    rows = [
        [shortened(printable(use.where)), shortened(printable(use.node.name)), f"by {use.by}, if {use.only_if}"]
        for use in uses[:MOST_OBJECTS]
    ]
    more = [f"… and {len(uses) - MOST_OBJECTS:,} more; --json lists all"] if len(uses) > MOST_OBJECTS else []
    return [*table(rows), *more]


def _told(node: Opaque) -> str:
    """The object, shortened; a call with more of its arguments, since they say what it would do."""
    if node.how != "called":
        return shortened(spelled(node))
    return cut(spelled(node, CALL), CALL)


def _members(checkpoint: Checkpoint) -> list[str]:
    """What the archive holds, those of which something was made first."""
    members = sorted(checkpoint.notes.members, key=lambda one: not one.use)
    rows = [[printable(one.name), size(one.nbytes), one.use or "left there"] for one in members[:MOST_OBJECTS]]
    more = [f"… and {len(members) - MOST_OBJECTS:,} more; --json lists all"] if len(members) > MOST_OBJECTS else []
    return [*table(rows), *more]


def _globals(inspection: Inspection) -> list[str]:
    """Every name that is not one of ours, and whether it would or may be called."""
    uses = sorted((use for use in inspection.globals if not use.known), key=lambda use: not use.called)
    calls = {use.node.name for use in inspection.opaque if use.node.how == "called"}
    values = {use.node.name for use in inspection.opaque if use.node.how == "constructed"} - calls
    handed = {use.node.name for use in inspection.opaque if use.node.how == "handed"}
    rows = []
    for use in uses[:MOST_OBJECTS]:
        called = "makes a plain value" if use.name in values else "would be called"
        unasked = "may be called" if use.name in handed else "named"
        rows.append([printable(use.name), called if use.called else unasked])
    lines = table(rows)
    if len(uses) > MOST_OBJECTS:
        lines.append(f"… and {len(uses) - MOST_OBJECTS:,} more; --json lists all")
    return lines


def _notes(inspection: Inspection) -> list[tuple[str, str]]:
    checkpoint, notes = inspection.checkpoint, inspection.checkpoint.notes
    rows = []
    if notes.source and notes.source != checkpoint.format.removesuffix("-sharded").removesuffix("-split"):
        rows.append(("converted from", printable(notes.source)))
    if notes.arch is not None:
        rows.append(("architecture", shortened(spelled(notes.arch), notes.arch)))
    devices = Counter(notes.devices.values())
    if devices:
        rows.append(("devices", ", ".join(f"{printable(name)} ×{count:,}" for name, count in devices.most_common(8))))
    for label, names in (
        ("nn.Parameter", notes.parameters),
        ("requires_grad", notes.requires_grad),
        ("not contiguous", list(notes.strides)),
        ("attributes", list(notes.attributes)),
    ):
        if names:
            rows.append((label, _which(names, len(checkpoint.all_tensors))))
    if versions := _versions(inspection):
        rows.append(("module versions", versions))
    return rows


def _which(names: list[str], of: int) -> str:
    if len(names) == of > 1:
        return f"all {plural(of, 'tensor')}"
    return f"{plural(len(names), 'tensor')}: {listed([printable(name) for name in islice(names, 5)] + names[5:], 4)}"


def _versions(inspection: Inspection) -> str:
    """The versions of the modules that the state_dicts' ``_metadata`` list, a few words of them."""
    counts: Counter[str] = Counter()
    holes = [node.versions for node in nodes_of(inspection.checkpoint.root, StateDict)]
    for versions in (*holes, *inspection.checkpoint.notes.versions.values()):
        for entry in versions.values() if isinstance(versions, dict) else ():
            version = entry.get("version") if isinstance(entry, dict) else entry
            counts[shortened(spelled(version))] += 1
    return ", ".join(f"{plural(count, 'module')} of version {version}" for version, count in counts.most_common(4))
