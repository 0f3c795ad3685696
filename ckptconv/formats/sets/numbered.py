"""Sets without an index: the first file stands for all of them, and says how many there are.

    NAME-00001-of-0000N.SUFFIX …

The first is put in its place last. Files of a set that is replaced keep theirs until then, so a new set has another
number of files than the old one: where it would have the same, its first file has no tensors and the others follow, as
``gguf-split --no-tensor-first-split`` of llama.cpp has it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import UsageError
from ckptconv.formats.sets.split import part_of, write_beside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckptconv.core.progress import Progress
    from ckptconv.formats.sets.split import Shard
    from ckptconv.io.target import Target

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[^.]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """What a file's name says of it; `number` counts from 1."""

    stem: str
    number: int
    count: int
    suffix: str

    @property
    def plain(self) -> str:
        """What the single file would be called."""
        return self.stem + self.suffix

    @property
    def siblings(self) -> list[str]:
        """The names of all files of its set."""
        return part_names(self.plain, self.count)


def parse(name: str) -> Part | None:
    """What a name says, where it is one of a file of a set."""
    found = _PART.fullmatch(name)
    return Part(found["stem"], int(found["number"]), int(found["count"]), found["suffix"]) if found else None


def part_names(plain: str, count: int) -> list[str]:
    """The names of the files of a set of that many; `plain` is that of the single file."""
    stem, suffix = os.path.splitext(plain)
    return [f"{stem}-{number:05}-of-{count:05}{suffix}" for number in range(1, count + 1)]


def sets_of(plain: Path) -> dict[int, list[str]]:
    """The sets that stand where a set of this single file's name would: their files, by their number. What has no
    first file is none.
    """
    try:
        names = set(os.listdir(plain.parent))
    except OSError:
        return {}
    found = [part for part in map(parse, names) if part and part.plain == plain.name and part.number == 1]
    return {part.count: [name for name in part.siblings if name in names] for part in found if part.count > 1}


def write_parts(target: Target, shards: Sequence[Shard], progress: Progress | None) -> int:
    """Write all but the first beside `target`, which is the first, and that one then. Gives the bytes of all.

    Raises UsageError where the target is not called as the first of so many.
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
    return written + first.write(target, part_of(progress, total - first.nbytes, total))
