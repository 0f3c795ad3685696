"""The header of a file of slices (see `slices`), and a warning if such a file is read alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.safetensors.layout import Header, read_header
from ckptconv.formats.sets.shard_names import SLICES
from ckptconv.io.limits import is_size

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.spelling import Json
    from ckptconv.io.source import Source

INFO, VERSION = "DCP_SHARDING_INFO", "DCP_VERSION"
"""Keys of ``__metadata__``: where this file's tensors begin in the model's, and the version of that layout."""


def read_slice_header(source: Source) -> Header:
    """The header of a file of slices. Raises what `layout.read_header` raises, and UnsupportedError."""
    if source.size >= 4 and bytes(source.read_at(0, 4)) == b"PK\3\4":
        raise UnsupportedError(
            "torch wrote a value that is not a tensor before the header, which neither safetensors nor torch can read",
            hint="HuggingFaceStorageWriter stores tensors alone: save the others otherwise",
        )
    return read_header(source)


def begins_of(header: Header) -> dict[str, tuple[int, ...]]:
    """Where each tensor of a file begins in the model's tensor, in the order of the state_dict, unlike the header.

    Raises CorruptFileError if that is missing for a tensor, or malformed.
    """
    text = header.metadata.get(INFO)
    if text is None:
        raise CorruptFileError(f"it has no {INFO}, which says where its slices lie")
    try:
        info = strict_json.loads(text)
    except ValueError as error:
        raise _bad(str(error)) from error
    if not isinstance(info, dict):
        raise _bad("it is not a JSON object")
    if strange := next((name for name in info if name not in header.slots), None):
        raise _bad(f"it speaks of {strange!r:.200}, which is not in the file")
    if lacking := next((name for name in header.slots if name not in info), None):
        raise _bad(f"it does not say where {lacking!r} begins")
    return {name: _begin(name, entry, len(header.slots[name].info.shape)) for name, entry in info.items()}


def _begin(name: str, entry: Json, rank: int) -> tuple[int, ...]:
    match entry:
        case {"saved_offsets": list() as offsets}:
            pass
        case _:
            raise _bad(f"it does not say where {name!r} begins")
    if len(offsets) != rank:
        raise _bad(f"{name!r} has {rank} dimensions, and it says {len(offsets)} offsets")
    if not all(map(is_size, offsets)):
        raise _bad(f"an offset of {name!r} is out of range")
    return tuple(offsets)


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"its {INFO} is malformed: {what}")


def strings_of(header: Header) -> dict[str, str]:
    """The ``__metadata__`` of a file that is read alone. Where its slices begin is left out if all begin at 0: torch
    records that for whole tensors too, and it would no longer be true after edits.
    """
    if INFO not in header.metadata or _count_slices(header):
        return header.metadata
    return without_begins(header)


def without_begins(header: Header) -> dict[str, str]:
    """The ``__metadata__`` without the entries that say where slices begin."""
    return {key: text for key, text in header.metadata.items() if key not in (INFO, VERSION)}


def _count_slices(header: Header) -> int | None:
    """How many tensors are certain to be slices, because they do not begin at 0; None if `INFO` is malformed."""
    try:
        return sum(any(begin) for begin in begins_of(header).values())
    except CkptconvError:  # does not matter if the file is read alone
        return None


def slice_findings(path: Path, header: Header) -> tuple[Finding, ...]:
    """A warning if a file that is read alone holds slices, or is named like a file of slices."""
    if INFO not in header.metadata:
        return ()
    cut = _count_slices(header)
    how_many = f"{cut:,} of its {len(header.slots):,} tensors are" if cut else "its tensors may be"
    if SLICES.fullmatch(path.name):
        message = (
            f"this is what one process wrote of a distributed checkpoint, and {how_many} slices: "
            f"its folder, {path.parent}, is the whole"
        )
    elif cut:
        message = f"{how_many} slices of larger ones, as its {INFO} says, and they are read as if they were whole"
    else:
        return ()
    return (Finding("slice", "warning", path.name, message),)
