"""What `inspect` prints of the graph that a file's weights belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ckptconv.cli.output import printable
from ckptconv.core.text import listed, shape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.metadata import MetaNode

MOST = 6
"""Inputs, outputs and operators that are listed; --json has all of them."""


def graph_rows(graph: MetaNode) -> list[tuple[str, str]]:
    """Its maker, opsets, inputs, outputs, signatures and operators, as `Notes.graph` has them; [] without a graph."""
    if not isinstance(graph, dict):
        return []
    rows = [(key, printable(str(graph[key]))) for key in ("name", "producer") if graph.get(key)]
    opsets = cast("Mapping[str, object]", graph.get("opset") or {})
    rows.append(("opset", ", ".join(f"{printable(str(domain))} {version}" for domain, version in opsets.items())))
    for key in ("inputs", "outputs"):
        values = cast("list[Mapping[str, object]]", graph.get(key) or [])
        rows.append((key, listed([_value(value) for value in values], MOST)))
    operators = cast("Mapping[str, int]", graph.get("operators") or {})
    counts = sorted(operators.items(), key=lambda item: -item[1])
    signatures = cast("list[Mapping[str, object]]", graph.get("signatures") or [])
    rows.append(("signatures", listed([printable(str(signature.get("name"))) for signature in signatures], MOST)))
    rows.append(("operators", listed([f"{printable(str(name))} ×{count:,}" for name, count in counts], MOST)))
    return [(label, text) for label, text in rows if text]


def _value(value: Mapping[str, object]) -> str:
    shape = value.get("shape")
    sizes = shape_text(shape) if isinstance(shape, list) else ""
    return printable(f"{value.get('name')} {value.get('dtype') or ''} {sizes}".strip())
