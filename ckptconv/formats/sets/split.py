"""Write a sharded set: which tensor goes into which file, the names of the files, and the index.

Shards are filled in the order of the state_dict, as Hugging Face's libraries do it: a tensor that no longer fits begins
a new shard, and one that is larger than a shard gets its own. The index is put in place last. Until then, the shards of
a set that is replaced remain: if a new shard would have the name of an old one, all new ones are called ``NAME.1-…``,
and the old ones are removed once the new index is in place.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.record import KEY
from ckptconv.errors import CorruptFileError, FileAccessError, UsageError
from ckptconv.formats.sets.shard_names import is_shard, plain_name, split_suffix
from ckptconv.formats.sets.shards import read_index
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ckptconv.core.progress import Progress
    from ckptconv.core.spelling import Json
    from ckptconv.io.target import Target

DEFAULT_SIZE = 5 * 10**9
"""The default size of a shard in bytes, as in huggingface_hub (MAX_SHARD_SIZE)."""

MAX_SHARDS = 500
"""The most shards that a written set may have: each is an open file until all are complete."""

_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{letter}{kind}": int(base**power)
    for kind, base in (("B", 1000), ("IB", 1024))
    for power, letter in enumerate("KMGT", 1)
}


def parse_size(text: str) -> int:
    """The bytes in ``"5GB"``, ``"200 MiB"`` or ``"1000000"``; KB, MB, GB, TB are powers of 1000. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9]{1,18})(\.[0-9]{1,9})?\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[3].upper()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is not a size", hint="such as 5GB, 500MB, 2GiB, or a number of bytes")
    size = int(match[1]) * unit
    if match[2]:
        size += int(float("0" + match[2]) * unit)
    if size < 1:
        raise UsageError("a shard has to have some size", hint="--shard-size 5GB")
    return size


def split(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Which blocks, of these sizes, go into each shard, by position; blocks are never cut.

    Works as `split_state_dict_into_shards_factory` of huggingface_hub does. Raises UsageError on too many shards.
    """
    shards: list[list[int]] = []
    current: list[int] = []
    filled = 0
    for position, size in enumerate(sizes):
        if size > limit:
            shards.append([position])
            continue
        if filled + size > limit:
            shards.append(current)
            current, filled = [], 0
        current.append(position)
        filled += size
    if current:
        shards.append(current)
    return _check_count(shards, sizes)


def split_in_order(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """The same, if the order of the shards is the order of the blocks, without an index.

    Works as llama.cpp's gguf-split does, except that no empty shard is left before a block that is too large.
    """
    shards: list[list[int]] = [[]]
    filled = 0
    for position, size in enumerate(sizes):
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(position)
        filled += size
    return _check_count(shards, sizes)


def _check_count(shards: list[list[int]], sizes: Sequence[int]) -> list[list[int]]:
    if len(shards) > MAX_SHARDS:
        raise UsageError(
            f"{len(shards):,} shards are more than the {MAX_SHARDS} that are written at a time",
            hint=f"--shard-size {-(-2 * sum(sizes) // MAX_SHARDS)} or more",
        )
    return shards


@dataclass(frozen=True, slots=True)
class Shard:
    """A file to be written: the names in it, the bytes of its tensors, and the function that writes it."""

    names: Sequence[str]
    nbytes: int
    write: Callable[[Target, Progress | None], int]


def write_set(
    target: Target, shards: Sequence[Shard], order: Sequence[str], progress: Progress | None,
    strings: Callable[[], Mapping[str, str] | None],
) -> int:  # fmt: skip
    """Write the shards beside `target`, and the index as `target`. Returns the bytes written.

    order:   all names, in the order of the index.
    strings: called when all shards are written: our record's string map, or None to leave the record out.
    """
    total = sum(shard.nbytes for shard in shards)
    target.check_room(total)
    old = superseded(target.path) if target.replace else []
    names = shard_names(target.path.name, len(shards), old)
    written = write_beside(target, dict(zip(names, shards, strict=True)), total, progress)
    places = {name: file for shard, file in zip(shards, names, strict=True) for name in shard.names}
    text = _index_text({name: places[name] for name in order}, total, strings())
    target.reserve(len(text))
    target.write_at(0, text)
    target.supersede(name for name in old if name not in names)
    return written + len(text)


def write_beside(target: Target, shards: Mapping[str, Shard], total: int, progress: Progress | None) -> int:
    """Write shards under these names beside `target`. Returns the bytes written.

    total: the bytes of all tensors of the set, for `progress`.
    """
    from concurrent.futures import ThreadPoolExecutor  # imported late: reading a set needs none

    written = done = 0
    with ThreadPoolExecutor(1) as disk:  # flushes one shard while the next is copied
        flushes = []
        for name, shard in shards.items():
            file = target.beside(name)
            written += shard.write(file, shard_progress(progress, done, total))
            done += shard.nbytes
            flushes.append(disk.submit(file.flush))
        for flush in flushes:
            flush.result()
    return written


def shard_progress(progress: Progress | None, before: int, total: int) -> Progress | None:
    """A progress callback for one shard, which reports the progress of the whole set."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _index_text(weight_map: Mapping[str, str], total: int, strings: Mapping[str, str] | None) -> bytes:
    metadata: dict[str, Json] = {"total_size": total}
    if strings is not None:
        metadata[KEY] = dict(strings)
    document: dict[str, Json] = {"metadata": metadata, "weight_map": dict(weight_map)}
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def shard_names(index: str, count: int, avoid: Sequence[str] = ()) -> list[str]:
    """The names of the shards of an index: the usual ones, or others if one of these is in `avoid`."""
    stem, suffix = split_suffix(plain_name(index))
    if not stem:
        raise UsageError(f"{index!r} is not a name of an index", hint="such as model.safetensors.index.json")
    taken, attempt = set(avoid), 0
    while True:
        base = f"{stem}.{attempt}" if attempt else stem
        names = [f"{base}-{i:05d}-of-{count:05d}{suffix}" for i in range(1, count + 1)]
        if not taken.intersection(names):
            return names
        attempt += 1


def superseded(index: Path) -> list[str]:
    """The shards of a set that is about to be replaced: the files that its index names, if they have names of shards.

    Other files that it names are never removed. [] if there is no index, or an invalid one. Raises FileAccessError if
    the index exists but cannot be read.
    """
    try:
        with Source(index) as source:
            return [name for name in read_index(source).files if is_shard(name)]
    except CorruptFileError:
        return []
    except FileAccessError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
