"""Whether the checkpoint that was read is the one that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.spelling import canonical

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Holds


def differences(found: Checkpoint, expected: Checkpoint, holds: Holds) -> list[str]:
    """What of `expected` is missing in `found`, as far as the format holds it; one line each."""
    lines = []
    if list(found) != list(expected):
        lines.append(f"the model's names are {list(found)}, not {list(expected)}")
    if holds.extras and list(found.extras) != list(expected.extras):
        lines.append(f"the extras' names are {list(found.extras)}, not {list(expected.extras)}")
    theirs = found.all_tensors
    for name, tensor in (expected.all_tensors if holds.extras else dict(expected)).items():
        if name not in theirs:
            continue
        if theirs[name].info != tensor.info:
            lines.append(f"{name!r} is {theirs[name].info}, not {tensor.info}")
        elif bytes(theirs[name].read()) != bytes(tensor.read()):
            lines.append(f"{name!r} has other bytes")
    if holds.ties and holds.extras and found.ties != expected.ties:
        lines.append(f"the ties are {found.ties}, not {expected.ties}")
    if holds.composites and found.composites != expected.composites:
        lines.append(f"what is made of parts is {found.composites}, not {expected.composites}")
    if holds.metadata != "none" and (ours := _said(found)) != (wanted := _said(expected)):
        lines.append(f"the metadata is {ours}, not {wanted}")
    return lines


def _said(checkpoint: Checkpoint) -> str:
    """The whole tree; without tensors, an empty state_dict cannot be told from any other empty dict."""
    return canonical(checkpoint.root if checkpoint.all_tensors else checkpoint.metadata)
