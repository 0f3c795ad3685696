"""The page that `inspect` prints: a header, the tensors, the metadata, the notes."""

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

MAX_OBJECTS = 20
"""The most opaque objects and calls to list; --json has all."""

MAX_TIED = 8
"""The most names of a tie to list."""

MAX_NAME_LENGTH = 80
"""The most characters of such a name to show."""

MAX_CALL_LENGTH = 500
"""The most characters of a call to show."""

_FATES = {"called": "a call, not made", "handed": "may be called"}
"""What became of an object, by how the file would have made it; all others are kept as data."""

_HUES = {"plain": "green", "opaque": "yellow", "would run code": "red"}


def verdict(inspection: Inspection) -> str:
    """What the verdict means, in a sentence."""
    uses = inspection.opaque
    options = listed(list(dict.fromkeys(use.only_if for use in inspection.runs_if)), 2)
    unless_asked = f" but with {options}" if options else ""
    match inspection.verdict:
        case "plain" if inspection.absent is not None:
            return f"nothing in it was found to run{unless_asked}"
        case "plain":
            return f"tensors and plain data, nothing that runs{unless_asked}"
        case "opaque":
            what = plural(len(uses), "object") if uses else "names"
            whose = "an unknown class" if len(uses) == 1 else "unknown classes"
            return f"{what} of {whose}, shown as data; nothing was found to run{unless_asked}"
        case _:
            return _call_summary([use for use in uses if use.runs])


def _call_summary(uses: list[OpaqueUse]) -> str:
    """What loading would call, or may call, and which library would do so."""
    loaders = listed(list(dict.fromkeys(use.by for use in uses)), 3)
    calls = [use for use in uses if use.node.how == "called"]
    named = listed([printable(name) for name in dict.fromkeys(use.node.name for use in calls or uses)], 3)
    if calls:
        return f"loading it with {loaders} would make {plural(len(calls), 'call')} ({named}); none was made here"
    return f"loading it with {loaders} may call {named}, which can run anything and which no data needs"


def page(inspection: Inspection) -> list[str]:
    """The whole page."""
    checkpoint, stats = inspection.checkpoint, inspection.stats
    ties = checkpoint.ties
    tied = {name: names[0] for names in ties for name in names[1:]}
    lines = [style(printable(os.fspath(inspection.path)), "bold"), *fields(_header(inspection, ties, tied))]
    has_graph_section = checkpoint.notes.graph is not None
    lines += findings(
        [finding for finding in inspection.findings if not (has_graph_section and finding.code == "graph")]
    )
    composites = checkpoint.composites
    columns, kind = _tree_columns(checkpoint, tied, stats), _kind(checkpoint)
    states = any(finding.code == "optimizer" for finding in checkpoint.findings)
    for title, tensors, loose_kind in (
        ("tensors", dict(checkpoint), _kind_without_shape(checkpoint) if states else None),
        ("tensors outside of the model", checkpoint.extras, _kind_without_shape(checkpoint)),
    ):
        if tensors:
            names = composite.with_wholes(tensors, composites)
            rows = tree(names, tied, columns, kind, fold=stats is None, heads=stats is not None, loose_kind=loose_kind)
            lines += section(title, rows)
    # a tensor under its own name is among the tensors already
    values = {key: value for key, value in checkpoint.metadata.items() if value != TensorRef(str(key))}
    lines += section("metadata", entries(values))
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


def _name(name: str) -> str:
    """The name, or both ends of one that would fill a line: Lightning's callbacks have their settings in it."""
    name = printable(name)
    half = MAX_NAME_LENGTH // 2
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:half]}…{name[-half:]}"


def _more_names(names: list[str]) -> list[str]:
    return [f"{len(names) - MAX_TIED:,} more"] if len(names) > MAX_TIED else []


def listing(inspection: Inspection) -> list[str]:
    """One line for each tensor, including extras."""
    tensors, stats = inspection.checkpoint.all_tensors, inspection.stats
    columns = _list_columns(inspection, stats)
    return flat(list(tensors), columns)


def _header(inspection: Inspection, ties: list[list[str]], tied: Mapping[str, str]) -> list[tuple[str, str]]:
    checkpoint, word = inspection.checkpoint, inspection.verdict
    verdict_row = ("verdict", f"{style(word, _HUES[word])}: {verdict(inspection)}")
    if inspection.absent is not None:
        return [("format", checkpoint.format), ("size", _file_size(inspection.file_size)), verdict_row]
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
        groups = [" = ".join([*map(_name, names[:MAX_TIED]), *_more_names(names)]) for names in ties]
        rows.append(("ties", listed(groups, 2)))
    return [*rows, verdict_row, *digest(inspection)]


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
    """The header's row about the digest: what was computed, what the file records, whether they agree."""
    recorded = inspection.checkpoint.notes.digest
    if inspection.digest is None:
        return [("digest", f"{printable(recorded)} (recorded; --digest checks it)")] if recorded else []
    if inspection.digest_holds is None:
        return [("digest", f"{inspection.digest} (the file records none)")]
    if inspection.digest_holds:
        return [("digest", f"{inspection.digest} ({style('as recorded', 'green')})")]
    mismatch = style("NOT AS RECORDED", "red")
    return [("digest", f"{inspection.digest} ({mismatch}: the file says {printable(str(recorded))})")]


def _shape(shape: Iterable[int], comma: str = ", ") -> str:
    return f"[{comma.join(map(str, shape))}]"


def _tree_columns(checkpoint: Checkpoint, tied: Mapping[str, str], stats: Mapping[str, Stats | None] | None) -> Columns:
    tensors, composites = checkpoint.all_tensors, checkpoint.composites

    def cells(name: str) -> list[str]:
        whole = composites.get(name)
        info = whole or tensors[name].info
        note = [composite.how(whole)] if whole else []
        note += [f"= {_name(tied[name])}"] if name in tied else []
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


def _kind_without_shape(checkpoint: Checkpoint) -> Kind:
    """Like `_kind`, but without the shape: an optimizer's states are alike for parameters of any shape."""
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
    """A tensor's statistics as text, by name."""
    values = {} if stats is None else stats.to_dict()
    return [(name, number(values.get(name))) for name in STATS]


def number(value: float | int | None) -> str:
    """A statistic with four significant digits; counts and other integers in full."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _objects(inspection: Inspection) -> list[str]:
    wholes = [use for use in inspection.opaque if not use.part]
    uses = sorted(wholes, key=lambda use: use.node.how not in RUNS)
    rows = []
    for use in uses[:MAX_OBJECTS]:
        where = shortened(printable(use.where)) or "the root"
        what = _FATES.get(use.node.how, "kept as data")
        rows.append([where, what, _object_text(use.node)])
    lines = table(rows)
    if (more := len(inspection.opaque) - len(rows)) > 0:
        rest = f"{more:,} of their parts" if len(uses) <= MAX_OBJECTS else f"{more:,} more"
        lines.append(f"… and {rest}; --json lists all")
    return lines


def _runs_if(inspection: Inspection) -> list[str]:
    uses = inspection.runs_if
    rows = [
        [shortened(printable(use.where)), shortened(printable(use.node.name)), f"by {use.by}, if {use.only_if}"]
        for use in uses[:MAX_OBJECTS]
    ]
    more = [f"… and {len(uses) - MAX_OBJECTS:,} more; --json lists all"] if len(uses) > MAX_OBJECTS else []
    return [*table(rows), *more]


def _object_text(node: Opaque) -> str:
    """The object, shortened. A call gets more room, as its arguments show what it would do."""
    if node.how != "called":
        return shortened(spelled(node))
    return cut(spelled(node, MAX_CALL_LENGTH), MAX_CALL_LENGTH)


def _members(checkpoint: Checkpoint) -> list[str]:
    """The archive's members, those that were used first."""
    members = sorted(checkpoint.notes.members, key=lambda member: not member.use)
    rows = [
        [printable(member.name), size(member.nbytes), member.use or "left there"] for member in members[:MAX_OBJECTS]
    ]
    more = [f"… and {len(members) - MAX_OBJECTS:,} more; --json lists all"] if len(members) > MAX_OBJECTS else []
    return [*table(rows), *more]


def _globals(inspection: Inspection) -> list[str]:
    """Every name that is not known here, and whether it would or may be called."""
    uses = sorted((use for use in inspection.globals if not use.known), key=lambda use: not use.called)
    calls = {use.node.name for use in inspection.opaque if use.node.how == "called"}
    values = {use.node.name for use in inspection.opaque if use.node.how == "constructed"} - calls
    handed = {use.node.name for use in inspection.opaque if use.node.how == "handed"}
    rows = []
    for use in uses[:MAX_OBJECTS]:
        called = "makes a plain value" if use.name in values else "would be called"
        unasked = "may be called" if use.name in handed else "named"
        rows.append([printable(use.name), called if use.called else unasked])
    lines = table(rows)
    if len(uses) > MAX_OBJECTS:
        lines.append(f"… and {len(uses) - MAX_OBJECTS:,} more; --json lists all")
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
            rows.append((label, _names_text(names, len(checkpoint.all_tensors))))
    if versions := _versions(inspection):
        rows.append(("module versions", versions))
    return rows


def _names_text(names: list[str], of: int) -> str:
    if len(names) == of > 1:
        return f"all {plural(of, 'tensor')}"
    return f"{plural(len(names), 'tensor')}: {listed([printable(name) for name in islice(names, 5)] + names[5:], 4)}"


def _versions(inspection: Inspection) -> str:
    """A summary of the module versions that the state_dicts' ``_metadata`` list."""
    counts: Counter[str] = Counter()
    in_tree = [node.versions for node in nodes_of(inspection.checkpoint.root, StateDict)]
    for versions in (*in_tree, *inspection.checkpoint.notes.versions.values()):
        for entry in versions.values() if isinstance(versions, dict) else ():
            version = entry.get("version") if isinstance(entry, dict) else entry
            counts[shortened(spelled(version))] += 1
    return ", ".join(f"{plural(count, 'module')} of version {version}" for version, count in counts.most_common(4))
