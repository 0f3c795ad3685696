"""Writer of a model in several GGUF files, as `parts` reads them; `write` writes each.

Tensors keep their order, since no index could state it. The first file has all metadata, with our record if there is
one; the others only say which part they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.formats.base import WriteResult
from ckptconv.formats.gguf.layout import ALIGNMENT
from ckptconv.formats.gguf.write import check_with_gguf, plan_file, write_file
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
    """The names of the tensors that each file would have; of tied tensors only the one that is stored."""
    plan = plan_file(checkpoint, plain=plain).plan
    return plan.own_names(_split(plan, limit))


def _split(plan: Plan, limit: int) -> list[list[str]]:
    sizes = [info.nbytes + -info.nbytes % ALIGNMENT for info in plan.infos.values()]
    return plan.names_in(split_in_order(sizes, limit))


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write all parts, with `target` as the first. If its name counts one part more than the tensors take, the first
    part has only metadata. Raises what the writer of a single file raises.
    """
    file_plan = plan_file(checkpoint, plain=options.plain)
    hashes: dict[str, str] = {}
    findings: dict[Finding, None] = {}
    digest: str | None = None

    def values_of_first(written: dict[str, str] | None) -> dict[str, Typed]:
        nonlocal digest
        if written is not None and file_plan.keeps_record:
            digest = file_plan.plan.digest(checkpoint, hashes | written)
        return file_plan.values(digest or PLACEHOLDER)

    def shard(names: Sequence[str], number: int, count: int) -> Shard:
        split: dict[str, Typed] = {
            "split.no": ("uint16", number), "split.count": ("uint16", count),
            "split.tensors.count": ("int32", len(file_plan.plan.infos)),
        }  # fmt: skip

        def values(written: dict[str, str] | None) -> dict[str, Typed]:
            return split if number else values_of_first(written) | split

        def write_shard(file: Target, progress: Progress | None) -> int:
            size, content = write_file(file, file_plan, names, values, progress)
            hashes.update(content)
            findings.update(dict.fromkeys(check_with_gguf(file)))
            return size

        return Shard(names, sum(file_plan.plan.infos[name].nbytes for name in names), write_shard)

    parts = _split(file_plan.plan, options.shard_size or DEFAULT_SIZE)
    part = numbered.parse(target.path.name)
    if part is not None and part.count == len(parts) + 1:
        parts = [[], *parts]
    shards = [shard(names, number, len(parts)) for number, names in enumerate(parts)]
    size = numbered.write_parts(target, shards, options.progress)
    return WriteResult(size, digest, tuple(findings))
