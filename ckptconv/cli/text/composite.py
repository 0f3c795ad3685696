"""How `inspect` shows composites, tensors stored as several: in a line of their own, or in notes at their parts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable
from ckptconv.core.composite import VALUES, Quantized
from ckptconv.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.composite import Composite


def rows(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Rows of the header: how many composites there are of each kind."""
    found: dict[str, Counter[str]] = {"quantized": Counter(), "sparse": Counter()}
    for composite in checkpoint.composites.values():
        if isinstance(composite, Quantized):
            found["quantized"][composite.dtype.name] += 1
        else:
            found["sparse"][composite.layout] += 1
    return [
        (kind, f"{counts.total():,}: {listed([f'{name} ×{count:,}' for name, count in counts.most_common()], 8)}")
        for kind, counts in found.items()
        if counts
    ]


def with_wholes(names: Iterable[str], composites: Mapping[str, Composite]) -> list[str]:
    """The tensors' names, with the name of each composite that no tensor has inserted before its first part."""
    by_first_part = {next(iter(composite.parts.values())): name for name, composite in composites.items()}
    ordered: list[str] = []
    known = set(names := list(names))
    for name in names:
        if name in by_first_part and by_first_part[name] not in known:
            ordered.append(by_first_part[name])
        ordered.append(name)
    return ordered


def how(composite: Composite) -> str:
    """Scheme and axis, or the layout, which the columns of type and shape do not show."""
    if isinstance(composite, Quantized):
        return composite.scheme + ("" if composite.axis is None else f", axis {composite.axis}")
    return composite.layout + (", coalesced" if composite.coalesced else "")


def notes(checkpoint: Checkpoint) -> dict[str, str]:
    """For each part, by its name: its role, and the composite that it belongs to."""
    texts: dict[str, str] = {}
    for name, composite in checkpoint.composites.items():
        for role, part in composite.parts.items():
            texts[part] = composite.summary if part == name else f"{role} of {printable(name)}"
            if role == VALUES and part != name:
                texts[part] += f": {composite.summary}"
    return texts
