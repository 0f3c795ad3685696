"""Writing a sharded set: which tensor goes into which file, what the files are called, and the index.

Shards are filled in the order of the state_dict, as Hugging Face's libraries fill them: a tensor that does not fit any
more begins a new shard, and one that is larger than a shard has one of its own. The index is put in its place last. A
set that is replaced keeps its shards until then: where a new one would have the name of an old one, all of them are
called ``NAME.1-…``, and the old ones are removed once the new index is there.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
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
"""Bytes of a shard where nothing else is said, as in huggingface_hub (MAX_SHARD_SIZE)."""

MAX_SHARDS = 500
"""Shards of a set that is written: each is an open file until all are whole."""

_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{letter}{kind}": int(base**power)
    for kind, base in (("B", 1000), ("IB", 1024))
    for power, letter in enumerate("KMGT", 1)
}


def parse_size(text: str) -> int:
    """Bytes of ``"5GB"``, ``"200 MiB"`` or ``"1000000"``: KB, MB, GB, TB are powers of 1000. Raises UsageError."""
    parts = re.fullmatch(r"\s*([0-9]{1,18})(\.[0-9]{1,9})?\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(parts[3].upper()) if parts else None
    if parts is None or unit is None:
        raise UsageError(f"{text!r} is not a size", hint="such as 5GB, 500MB, 2GiB, or a number of bytes")
    size = int(parts[1]) * unit + (int(float("0" + parts[2]) * unit) if parts[2] else 0)
    if size < 1:
        raise UsageError("a shard has to have some size", hint="--shard-size 5GB")
    return size


def split(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Which of the blocks of these sizes, by position, go together; blocks are never cut.

    As `split_state_dict_into_shards_factory` of huggingface_hub does it. Raises UsageError on too many shards.
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
    return _few(shards, sizes)


def split_in_order(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """The same, where no index says which block comes first: as llama.cpp's gguf-split does it, but that a block which
    is too large leaves no empty shard before it.
    """
    shards: list[list[int]] = [[]]
    filled = 0
    for position, size in enumerate(sizes):
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(position)
        filled += size
    return _few(shards, sizes)


def _few(shards: list[list[int]], sizes: Sequence[int]) -> list[list[int]]:
    if len(shards) > MAX_SHARDS:
        raise UsageError(
            f"{len(shards):,} shards are more than the {MAX_SHARDS} that are written at a time",
            hint=f"--shard-size {-(-2 * sum(sizes) // MAX_SHARDS)} or more",
        )
    return shards


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to be written: the names in it, the bytes that go through, and what writes it."""

    names: Sequence[str]
    nbytes: int
    write: Callable[[Target, Progress | None], int]


def write_set(
    target: Target, shards: Sequence[Shard], order: Sequence[str], progress: Progress | None,
    strings: Callable[[], Mapping[str, str] | None],
) -> int:  # fmt: skip
    """Write the shards beside `target`, which becomes the index. Gives the bytes of all.

    order:   all names as the index lists them.
    strings: asked when all shards are written: our record's string map, or None to leave it out.
    """
    total = sum(shard.nbytes for shard in shards)
    target.check_room(total)
    old = superseded(target.path) if target.replace else []
    names = shard_names(target.path.name, len(shards), old)
    written = write_beside(target, dict(zip(names, shards, strict=True)), total, progress)
    places = {name: file for shard, file in zip(shards, names, strict=True) for name in shard.names}
    text = _spell({name: places[name] for name in order}, total, strings())
    target.reserve(len(text))
    target.write_at(0, text)
    target.supersede(name for name in old if name not in names)
    return written + len(text)


def write_beside(target: Target, shards: Mapping[str, Shard], total: int, progress: Progress | None) -> int:
    """Write shards under these names beside `target`. Gives their bytes; `total` is what goes through in all."""
    written = done = 0
    with ThreadPoolExecutor(1) as disk:  # it takes in one shard while the next is being copied
        flushed = []
        for name, shard in shards.items():
            other = target.beside(name)
            written += shard.write(other, part_of(progress, done, total))
            done += shard.nbytes
            flushed.append(disk.submit(other.flush))
        for one in flushed:
            one.result()
    return written


def part_of(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one shard as that of the whole."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _spell(weight_map: Mapping[str, str], total: int, strings: Mapping[str, str] | None) -> bytes:
    metadata: dict[str, Json] = {"total_size": total}
    if strings is not None:
        metadata[KEY] = dict(strings)
    document: dict[str, Json] = {"metadata": metadata, "weight_map": dict(weight_map)}
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def shard_names(index: str, count: int, avoid: Sequence[str] = ()) -> list[str]:
    """The usual names of the shards of an index; others where the set that it replaces has those."""
    stem, suffix = split_suffix(plain_name(index))
    if not stem:
        raise UsageError(f"{index!r} is not a name of an index", hint="such as model.safetensors.index.json")
    old, number = set(avoid), 0
    while True:
        base = f"{stem}.{number}" if number else stem
        names = [f"{base}-{i:05d}-of-{count:05d}{suffix}" for i in range(1, count + 1)]
        if not old.intersection(names):
            return names
        number += 1


def superseded(index: Path) -> list[str]:
    """The shards of a set that is about to be replaced: what its index names, as far as they are called as shards are.

    [] where there is no index, or none that makes sense. What it names besides is nothing that we remove. Raises
    FileAccessError where it is there and cannot be read.
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
