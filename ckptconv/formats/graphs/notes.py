"""What is said of a graph that stays behind while its weights are read, whatever format it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping

    from ckptconv.core.metadata import MetaNode


PACKED_KEY = "packed"
"""The key of the metadata that has the types and shapes of what is read as bytes."""

READ_AS = "read-as"


def counted(operators: Counter[str]) -> dict[str, MetaNode]:
    """How many nodes there are, and how often each operator comes, the most frequent first."""
    most = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return {"nodes": operators.total(), "operators": dict(most)}


def all_said(facts: Mapping[str, MetaNode]) -> dict[str, MetaNode]:
    """The facts that there are; how many nodes there are is one in any case."""
    return {key: value for key, value in facts.items() if value not in ("", 0, [], {}) or key == "nodes"}


def stays_behind(graph: str, read: str = "weights") -> Finding:
    """A word on what is not read."""
    return Finding("graph", "info", "", f"{graph} stays behind: its {read} are read")


def read_as_bytes(packed: Iterable[str]) -> list[Finding]:
    """A word on constants that no element type here has, where there are some."""
    names = list(packed)
    message = f"packed as no element type here is, and read as bytes: {quoted(names)}"
    return [Finding(READ_AS, "warning", names[0], message)] if names else []
