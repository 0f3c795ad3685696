"""Facts and findings about a graph that stays behind while its weights are read, for any format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping

    from ckptconv.core.metadata import MetaNode


PACKED_KEY = "packed"
"""The metadata key under which the types and shapes of tensors that are read as bytes are kept."""

READ_AS = "read-as"


def operator_counts(operators: Counter[str]) -> dict[str, MetaNode]:
    """The number of nodes, and how often each operator occurs, most frequent first."""
    by_count = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return {"nodes": operators.total(), "operators": dict(by_count)}


def without_empty(facts: Mapping[str, MetaNode]) -> dict[str, MetaNode]:
    """The facts without empty values; the number of nodes is kept even if it is 0."""
    return {key: value for key, value in facts.items() if value not in ("", 0, [], {}) or key == "nodes"}


def stays_behind(graph: str, read: str = "weights") -> Finding:
    """The finding that `graph` is not read, only its weights (`read`)."""
    return Finding("graph", "info", "", f"{graph} stays behind: its {read} are read")


def read_as_bytes(packed: Iterable[str]) -> list[Finding]:
    """A finding about constants that are packed as no element type here is, if there are any."""
    names = list(packed)
    message = f"packed as no element type here is, and read as bytes: {quoted(names)}"
    return [Finding(READ_AS, "warning", names[0], message)] if names else []
