"""What `arch list`, `arch show` and `arch infer` print."""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import fields, findings, section, table, value
from ckptconv.cli.text.tree import Columns, tree
from ckptconv.core.text import listed, plural, shape_text

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ckptconv.api.architectures import Architecture, Inferred
    from ckptconv.arch.spec import Param, Spec
    from ckptconv.arch.table import Expected, Table


def listing(known: Sequence[Architecture]) -> list[str]:
    """A line for each architecture of the library."""
    head, *lines = table(
        [["NAME", "SUMMARY"], *([architecture.spec.name, architecture.spec.summary] for architecture in known)]
    )
    return [style(head, "bold"), *lines]


def page(found: Architecture, name: str) -> list[str]:
    """The spec, then its tensors, or the command that shows them where params are missing."""
    spec = found.spec
    lines = [style(printable(spec.name), "bold") + (f": {printable(spec.summary)}" if spec.summary else "")]
    if found.table is None:
        lines += section("params", table([_param(param) for param in spec.params.values()]))
        lines += section("variants", table([[printable(key), printable(text)] for key, text in spec.variants.items()]))
        lines += section(
            "constraints",
            [printable(f"{constraint.name}: {constraint.formula.text}") for constraint in spec.constraints],
        )
        lines += _computes(spec)
        values = " ".join(f"--set {printable(param)}=VALUE" for param in found.missing)
        return [*lines, "", f"its tensors: ckptconv arch show {printable(name)} {values}"]
    lines += findings(found.table.findings)
    lines += section("params", _values(spec, found.table)) + _computes(spec)
    return [*lines, *section(_count(found.table), _tensors(found.table))]


def _computes(spec: Spec) -> list[str]:
    if spec.forward is None:
        return []
    return ["", "it has a forward recipe: convert SRC DST.onnx --arch makes a graph of it"]


def _param(param: Param) -> list[str]:
    default = param.default.text if param.default else None if param.literal is None else value(param.literal)
    text = "required" if param.required else "optional" if default is None else f"default {printable(default)}"
    if param.choices is not None and param.type != "bool":
        text += f"; one of {', '.join(value(choice) for choice in param.choices)}"
    aliases = f"also called {printable(', '.join(param.aliases))}" if param.aliases else ""
    return [printable(param.name), param.type, text, printable("; ".join(filter(None, (param.summary, aliases))))]


def _values(spec: Spec, made: Table) -> list[str]:
    rows = [
        (printable(name), value(made.params[name]) if name in made.params else "not set (shapes with it are open)")
        for name in spec.params
    ]
    return fields(rows, indent="")


def _count(made: Table) -> str:
    shapes = [entry.shape for entry in made.tensors.values() if entry.tied_to is None and not entry.optional]
    known = [size for shape in shapes for size in shape if size is not None]
    if len(known) < sum(map(len, shapes)):
        return plural(len(made.tensors), "tensor")
    parameters = sum(prod(size for size in shape if size is not None) for shape in shapes)
    return f"{plural(len(made.tensors), 'tensor')}, {plural(parameters, 'parameter')}"


def _tensors(made: Table) -> list[str]:
    def cells(name: str) -> list[str]:
        entry = made.tensors[name]
        return [shape_text(entry.shape), ", ".join(_notes(entry))]

    def kind(name: str) -> Hashable:
        entry = made.tensors[name]
        return entry.shape, entry.optional, entry.loose, entry.dtypes

    tied = {name: entry.tied_to for name, entry in made.tensors.items() if entry.tied_to is not None}
    return tree(made.tensors, tied, Columns(["SHAPE", "NOTES"], frozenset(), cells), kind, fold=True, heads=False)


def _notes(entry: Expected) -> list[str]:
    notes = ["optional"] if entry.optional else []
    if entry.tied_to is not None:
        notes.append(f"{'may be ' if entry.loose else ''}= {printable(entry.tied_to)}")
    if entry.dtypes is not None:
        notes.append(listed(sorted(entry.dtypes), 3))
    return notes


def inferred(made: Inferred) -> list[str]:
    """What was written, and how to use it."""
    target = printable(os.fspath(made.target or ""))
    params = ", ".join(printable(f"{param.name} ({param.type})") for param in made.spec.params.values())
    return [
        f"{plural(len(made.sources), 'checkpoint')} → {style(target, 'bold')}: "
        f"{plural(len(made.spec.rules), 'rule')}, {plural(len(made.spec.params), 'param')}",
        f"params: {params or 'none'}",
        f"to check others with it: ckptconv validate --arch {target} SRC",
    ]
