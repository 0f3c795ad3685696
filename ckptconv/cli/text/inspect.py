"""The page that `inspect` prints: a header, the tensors, the metadata, the notes."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.text import adapter, composite
from ckptconv.cli.text.columns import (
    kind_of,
    kind_without_shape,
    list_columns,
    short_tied_name,
    tree_columns,
    weights_of,
)
from ckptconv.cli.text.common import fields, findings, section, table
from ckptconv.cli.text.graph import graph_rows
from ckptconv.cli.text.loading import MAX_OBJECTS, name_lines, object_lines, optional_lines, verdict
from ckptconv.cli.text.metadata import attributes, entries, shortened, spelled
from ckptconv.cli.text.tree import flat, tree
from ckptconv.core.metadata import StateDict, TensorRef, nodes_of
from ckptconv.core.text import approximately, listed, plural, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.api.inspect import Inspection
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor

MAX_TIED = 8
"""The most names of a tie to list."""

_HUES = {"plain": "green", "opaque": "yellow", "would run code": "red"}


def page(inspection: Inspection, *, sizes: bool = False) -> list[str]:
    """The whole page. `sizes`: the tree of tensors has sums of elements and bytes."""
    checkpoint, stats = inspection.checkpoint, inspection.stats
    ties = checkpoint.ties
    tied = {name: names[0] for names in ties for name in names[1:]}
    lines = [style(printable(os.fspath(inspection.path)), "bold"), *fields(_header(inspection, ties, tied))]
    has_graph_section = checkpoint.notes.graph is not None
    lines += findings(
        [finding for finding in inspection.findings if not (has_graph_section and finding.code == "graph")]
    )
    composites = checkpoint.composites
    columns, kind = tree_columns(checkpoint, tied, stats), kind_of(checkpoint)
    states = any(finding.code == "optimizer" for finding in checkpoint.findings)
    for title, tensors, loose_kind in (
        ("tensors", dict(checkpoint), kind_without_shape(checkpoint) if states else None),
        ("tensors outside of the model", checkpoint.extras, kind_without_shape(checkpoint)),
    ):
        if tensors:
            names = composite.with_wholes(tensors, composites)
            rows = tree(
                names, tied, columns, kind, fold=stats is None, heads=stats is not None, loose_kind=loose_kind,
                weigh=weights_of(checkpoint, tied) if sizes else None,
            )  # fmt: skip
            lines += section(title, rows)
    # a tensor under its own name is among the tensors already
    values = {key: value for key, value in checkpoint.metadata.items() if value != TensorRef(str(key))}
    lines += section("metadata", entries(values))
    lines += section("what the object holds", attributes(checkpoint.root) if not checkpoint.all_tensors else [])
    lines += section("objects that were not built", object_lines(inspection))
    lines += section("what runs only if it is asked for", optional_lines(inspection))
    if inspection.verdict != "plain":
        heading = "names that the pickles mention" if inspection.beside.globals else "names that the pickle mentions"
        lines += section(heading, name_lines(inspection))
    lines += section("members of the archive", _members(checkpoint))
    lines += section("graph", fields(graph_rows(checkpoint.notes.graph), indent=""))
    lines += section("notes", fields(_notes(inspection), indent=""))
    return lines


def _more_names(names: list[str]) -> list[str]:
    return [f"{len(names) - MAX_TIED:,} more"] if len(names) > MAX_TIED else []


def listing(inspection: Inspection) -> list[str]:
    """One line for each tensor, including extras."""
    tensors, stats = inspection.checkpoint.all_tensors, inspection.stats
    columns = list_columns(inspection, stats)
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
    if parametrized := inspection.parametrized:
        kinds = ", ".join(f"{scheme} ×{count:,}" for scheme, count in parametrized.items())
        how = "" if "unknown" in parametrized else "; convert --remove-parametrizations makes plain weights"
        rows.append(("parametrized", f"{kinds}{how}"))
    rows += adapter.rows(inspection.adapter, os.fspath(inspection.path))
    if tied:
        groups = [" = ".join([*map(short_tied_name, names[:MAX_TIED]), *_more_names(names)]) for names in ties]
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


def _members(checkpoint: Checkpoint) -> list[str]:
    """The archive's members, those that were used first."""
    members = sorted(checkpoint.notes.members, key=lambda member: not member.use)
    rows = [
        [printable(member.name), size(member.nbytes), member.use or "left there"] for member in members[:MAX_OBJECTS]
    ]
    more = [f"… and {len(members) - MAX_OBJECTS:,} more; --json lists all"] if len(members) > MAX_OBJECTS else []
    return [*table(rows), *more]


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
