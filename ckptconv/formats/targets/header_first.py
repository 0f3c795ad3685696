"""Files of a header and the tensors behind it, of which the header says where they lie: GGUF, safetensors.

The header is spelled twice: before the tensors, to know how long it is, and with what was hashed of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.target import Target

Hashes = dict[str, str]
"""Content hashes of tensors by the names that they are stored under."""


def write_behind(
    target: Target, header: Callable[[Hashes | None], bytes], stored: Mapping[str, LazyTensor],
    offsets: Mapping[str, int], length: int, *, content: bool, progress: Progress | None,
) -> tuple[int, Hashes]:  # fmt: skip
    """Write the tensors at their offsets behind the header, `length` bytes in all, and the header last. Gives the
    file's size, and the tensors' hashes; these are empty texts without `content`.

    header: asked before any byte is written, and with the hashes when all tensors are. Both are of the same length.
    """
    start = len(header(None))
    target.reserve(start + length)
    jobs = [Job(name, tensor, start + offsets[name]) for name, tensor in stored.items()]
    jobs.sort(key=lambda job: job.offset)
    sums = Streamer(target, crc=False, content=content, progress=progress).run(jobs)
    hashes = {job.name: one.content for job, one in zip(jobs, sums, strict=True)}
    target.write_at(0, header(hashes))
    return start + length, hashes
