"""What `convert` prints: from what to what, what became of each tensor, what was lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import findings, table
from ckptconv.core.report import summed_up
from ckptconv.core.text import plural, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.converting.conversion import Conversion
    from ckptconv.api.converting.plan import Move


def conversion(result: Conversion, *, dry_run: bool) -> list[str]:
    """What `convert` prints."""
    source, target = (printable(os.fspath(path)) for path in (result.source, result.target))
    amount = f"{plural(result.tensors, 'tensor')}, {size(result.nbytes)}"
    if dry_run:
        amount = f"would be {result.target_format}, {amount}"
    lines = [f"{source} → {style(target, 'bold')}: {amount}"]
    lines += _plan(result.plan)
    label = "would be lost" if dry_run else "lost"
    lines += findings(summed_up(result.losses), label)
    lines += findings(result.findings)
    if result.digest is not None:
        lines.append(style(f"digest: {printable(result.digest)}", "dim"))
    if dry_run:
        codes = " ".join(f"--allow-loss {code}" for code in dict.fromkeys(loss.code for loss in result.losses))
        lines.append("nothing was written" + (f"; to convert, agree with {codes}" if codes else ""))
    return lines


def _plan(moves: Sequence[Move]) -> list[str]:
    """``a + b → c``, or the name alone where it stays; type, shape, and the file where there are several."""
    several = len({move.file for move in moves if move.file is not None}) > 1
    return table([_move(move, several=several) for move in moves])


def _move(move: Move, *, several: bool) -> list[str]:
    sources = " + ".join(map(printable, (*move.sources, *move.merged))) or "(computed)"
    name = "left out" if move.target is None else printable(move.target)
    row = [
        f"  {sources}" if move.sources == (move.target,) else f"  {sources} → {name}",
        move.dtype,
        str(list(move.shape)),
    ]
    return [*row, printable(move.file or "")] if several else row
