"""How a checkpoint that was read differs from the one that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.spelling import canonical

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Holds


def differences(found: Checkpoint, expected: Checkpoint, holds: Holds) -> list[str]:
    """What `expected` has and `found` lacks, as far as the format can hold it; one line each."""
    lines = []
    if list(found) != list(expected):
        lines.append(f"the model's names are {list(found)}, not {list(expected)}")
    if holds.extras and list(found.extras) != list(expected.extras):
        lines.append(f"the extras' names are {list(found.extras)}, not {list(expected.extras)}")
    found_tensors = found.all_tensors
    for name, tensor in (expected.all_tensors if holds.extras else dict(expected)).items():
        if name not in found_tensors:
            continue  # the names were compared above
        if found_tensors[name].info != tensor.info:
            lines.append(f"{name!r} is {found_tensors[name].info}, not {tensor.info}")
        elif bytes(found_tensors[name].read()) != bytes(tensor.read()):
            lines.append(f"{name!r} has other bytes")
    if holds.ties and holds.extras and found.ties != expected.ties:
        lines.append(f"the ties are {found.ties}, not {expected.ties}")
    if holds.composites and found.composites != expected.composites:
        lines.append(f"what is made of parts is {found.composites}, not {expected.composites}")
    if holds.metadata != "none":
        found_metadata, expected_metadata = _canonical_metadata(found), _canonical_metadata(expected)
        if found_metadata != expected_metadata:
            lines.append(f"the metadata is {found_metadata}, not {expected_metadata}")
    return lines


def _canonical_metadata(checkpoint: Checkpoint) -> str:
    """The whole tree as text; without tensors only the metadata, as an empty state_dict is like any empty dict."""
    return canonical(checkpoint.root if checkpoint.all_tensors else checkpoint.metadata)
