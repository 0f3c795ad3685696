"""What `inspect` prints of an adapter, in its header."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.core.text import approximately, listed, plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.adapters.summary import Summary

_MOST = 8


def rows(found: Summary | None, path: str) -> list[tuple[str, str]]:
    """Rows of the header: its kind, ranks, the modules that it changes, its base, and how to merge it, or why not."""
    if found is None:
        return []
    pairs = [("adapter", _kind(found))]
    if found.ranks:
        scales = f"; scale {_counts(found.scales)}" if found.scales else ""
        pairs.append(("rank", f"{_counts(found.ranks)}{scales}"))
    if found.targets:
        pairs.append(("targets", _counts(found.targets)))
    if len(found.components) > 1:
        pairs.append(("parts", _counts(found.components)))
    if found.whole:
        pairs.append(("whole", f"{plural(len(found.whole), 'tensor')}: {listed(list(map(printable, found.whole)), 3)}"))
    if found.changes:
        share = f"{_parameters(found.changes)} of the base's, by {found.parameters:,}"
        pairs.append(("changes", f"{share} ({found.parameters / found.changes:.2%})"))
    if found.base:
        pairs.append(("base model", printable(found.base)))
    pairs.append(("merging", _merging(found, path)))
    return pairs


def _kind(found: Summary) -> str:
    kinds = listed([f"{kind} ×{count:,}" for kind, count in found.kinds.items()], _MOST)
    more = ["DoRA"] * found.dora + ["rsLoRA"] * found.rslora + ["inside the model that it changes"] * found.inside
    owner = f"{found.maker}'{'' if found.maker.endswith('s') else 's'}" if found.maker else ""
    peft = f"type {printable(found.peft)}" if found.peft and not found.kinds else ""
    return ", ".join(part for part in (f"{owner} {kinds or peft}".strip(), *more) if part) or "unknown kind"


def _merging(found: Summary, path: str) -> str:
    if found.obstacle:
        return f"{style('no', 'yellow')}: {printable(found.obstacle)}"
    return f"ckptconv convert BASE DST --lora {printable(shlex.quote(path))}"


def _counts(found: Mapping[str, int] | Mapping[int, int] | Mapping[float, int]) -> str:
    """The most frequent values, each with its count where there are several."""
    texts = [f"{value:g}" if isinstance(value, float) else printable(str(value)) for value in found]
    if len(texts) == 1:
        return texts[0]
    return listed([f"{text} ×{count:,}" for text, count in zip(texts, found.values(), strict=True)], _MOST)


def _parameters(count: int) -> str:
    return f"{approximately(count)} parameters" if count >= 1_000_000 else plural(count, "parameter")
