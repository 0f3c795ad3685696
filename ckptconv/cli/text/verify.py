"""What `verify` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.text.common import findings, table
from ckptconv.core.text import plural

if TYPE_CHECKING:
    from ckptconv.api.running.comparing import Verification
    from ckptconv.api.verify import Saved


def verification(result: Verification) -> list[str]:
    """The verdict, a line for each output, where the bound is from, and what was noticed."""
    color = "green" if result.equivalent else "red"
    verdict = style("equivalent" if result.equivalent else "not equivalent", "bold", color)
    runtimes = " and ".join(dict.fromkeys(result.runtimes))
    rows = sum(shape[0] if shape else 1 for shape in result.runs)
    batches = plural(len(result.runs), "batch", "batches")
    lines = [f"{verdict}: {plural(rows, 'sample')} in {batches} on {result.device}, {runtimes}"]
    head = ["OUTPUT", "LARGEST DIFFERENCE", "OF THE ROW'S LARGEST", "BOUND", ""]
    cells = [
        [
            printable(one.name), f"{one.max_abs:.3g}", f"{one.max_rel:.3g}", f"{one.bound:.3g}",
            "ok" if one.ok else "past it",
        ]
        for one in result.outputs
    ]  # fmt: skip
    lines += [f"  {line}" for line in table([head, *cells])]
    lines.append(f"bound: {printable(result.reason)}")
    return lines + findings(result.findings)


def saved(result: Saved) -> list[str]:
    """What was run, where it is kept, and how it is compared."""
    rows = sum(shape[0] if shape else 1 for shape in result.runs)
    batches = plural(len(result.runs), "batch", "batches")
    lines = [
        f"saved to {printable(str(result.target))}: {plural(rows, 'sample')} in {batches} on {result.device}, "
        f"{result.runtime}"
    ]
    lines.append(f"bound: {printable(result.reason) if result.reason else 'none yet, for want of a float64 reference'}")
    return lines + findings(result.findings)
