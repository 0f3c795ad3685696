"""Writer of a GGUF in several files: `ckptconv.formats.gguf.parts` says what they are, `.write` what one is.

Tensors keep their order, as there is no index to say it. All metadata is in the first file, with our record where there
is one; the others say which part they are, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.base import WriteResult
from ckptconv.formats.gguf.layout import ALIGNMENT
from ckptconv.formats.gguf.write import checked, planned, write_file
from ckptconv.formats.sets import numbered
from ckptconv.formats.sets.split import DEFAULT_SIZE, Shard, split_in_order
from ckptconv.io.digest import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.report import Finding
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.gguf.values import Typed
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.target import Target


def layout(checkpoint: Checkpoint, limit: int, *, plain: bool) -> list[list[str]]:
    """The names of the tensors in each of the files that there would be, those without their ties."""
    plan = planned(checkpoint, plain=plain).plan
    return plan.own_names(_split(plan, limit))


def _split(plan: Plan, limit: int) -> list[list[str]]:
    return plan.named(split_in_order([info.nbytes + -info.nbytes % ALIGNMENT for info in plan.infos.values()], limit))


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write all parts, `target` as the first of those that its name speaks of; where these are one more than the
    tensors take, it has the metadata alone. Raises as the writer of a single file does.
    """
    made = planned(checkpoint, plain=options.plain)
    hashes: dict[str, str] = {}
    findings: dict[Finding, None] = {}
    digest: str | None = None

    def first_values(of_first: dict[str, str] | None) -> dict[str, Typed]:
        nonlocal digest
        if of_first is not None and made.keeps_record:
            digest = made.plan.digest(checkpoint, hashes | of_first)
        return made.values(digest or PLACEHOLDER)

    def shard(names: Sequence[str], number: int, count: int) -> Shard:
        place: dict[str, Typed] = {
            "split.no": ("uint16", number), "split.count": ("uint16", count),
            "split.tensors.count": ("int32", len(made.plan.infos)),
        }  # fmt: skip

        def values(written: dict[str, str] | None) -> dict[str, Typed]:
            return place if number else first_values(written) | place

        def write_one(other: Target, progress: Progress | None) -> int:
            size, content = write_file(other, made, names, values, progress)
            hashes.update(content)
            findings.update(dict.fromkeys(checked(other)))
            return size

        return Shard(names, sum(made.plan.infos[name].nbytes for name in names), write_one)

    parts = _split(made.plan, options.shard_size or DEFAULT_SIZE)
    named = numbered.parse(target.path.name)
    if named is not None and named.count == len(parts) + 1:
        parts = [[], *parts]
    shards = [shard(names, number, len(parts)) for number, names in enumerate(parts)]
    size = numbered.write_parts(target, shards, options.progress)
    return WriteResult(size, digest, tuple(findings))
