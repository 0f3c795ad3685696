"""Sets without an index: the first file stands for all of them, and its name says how many there are.

    NAME-00001-of-0000N.SUFFIX …

When a set is written, the first file is put in place last. Until then, the files of a set that is replaced keep their
names, so the new set must have another number of files: if it would have the same number, its first file has no tensors
and the others follow, as with ``gguf-split --no-tensor-first-split`` of llama.cpp.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import UsageError
from ckptconv.formats.sets.split import shard_progress, write_beside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckptconv.core.progress import Progress
    from ckptconv.formats.sets.split import Shard
    from ckptconv.io.target import Target

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[^.]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """The parts of a file's name; `number` counts from 1."""

    stem: str
    number: int
    count: int
    suffix: str

    @property
    def plain(self) -> str:
        """The name of the set if it were a single file."""
        return self.stem + self.suffix

    @property
    def siblings(self) -> list[str]:
        """The names of all files of its set."""
        return part_names(self.plain, self.count)


def parse(name: str) -> Part | None:
    """The parts of a name; None if it is not one of a file of a set."""
    match = _PART.fullmatch(name)
    return Part(match["stem"], int(match["number"]), int(match["count"]), match["suffix"]) if match else None


def part_names(plain: str, count: int) -> list[str]:
    """The names of the `count` files of a set whose single file would be called `plain`."""
    stem, suffix = os.path.splitext(plain)
    return [f"{stem}-{number:05}-of-{count:05}{suffix}" for number in range(1, count + 1)]


def sets_of(plain: Path) -> dict[int, list[str]]:
    """The existing sets whose single file would be called `plain`: their files, by the number of files.

    Files without a first one are not a set.
    """
    try:
        names = set(os.listdir(plain.parent))
    except OSError:
        return {}
    found = [part for part in map(parse, names) if part and part.plain == plain.name and part.number == 1]
    return {part.count: [name for name in part.siblings if name in names] for part in found if part.count > 1}


def write_parts(target: Target, shards: Sequence[Shard], progress: Progress | None) -> int:
    """Write all files but the first beside `target`, and then the first as `target`. Returns the bytes written.

    Raises UsageError if the target's name is not that of the first of so many files.
    """
    part = parse(target.path.name)
    if part is None or (part.number, part.count) != (1, len(shards)):
        raise UsageError(
            f"{target.path.name!r} is not what the first of {len(shards):,} files is called",
            hint=f"such as {part_names(target.path.name, len(shards))[0]}",
        )
    total = sum(shard.nbytes for shard in shards)
    target.check_room(total)
    first, *others = shards
    written = write_beside(target, dict(zip(part.siblings[1:], others, strict=True)), total, progress)
    return written + first.write(target, shard_progress(progress, total - first.nbytes, total))
