"""Writing files whose header says where the tensors after it are: GGUF, safetensors.

The header is made twice: before the tensors are written, to know its length, and again with their hashes.
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
"""Content hashes of tensors, by the names under which they are stored."""


def write_behind(
    target: Target, header: Callable[[Hashes | None], bytes], stored: Mapping[str, LazyTensor],
    offsets: Mapping[str, int], length: int, *, content: bool, progress: Progress | None,
) -> tuple[int, Hashes]:  # fmt: skip
    """Write the tensors after the header, then the header. Returns the file's size and the tensors' hashes.

    header:  makes the header. Called with None before any byte is written, and with the hashes once all tensors are
             written; both headers have the same length.
    offsets: where each tensor starts, from the end of the header.
    length:  how many bytes follow the header.
    content: whether to hash the tensors; if not, the hashes are "".
    """
    start = len(header(None))
    target.reserve(start + length)
    jobs = [Job(name, tensor, start + offsets[name]) for name, tensor in stored.items()]
    jobs.sort(key=lambda job: job.offset)
    sums = Streamer(target, crc=False, content=content, progress=progress).run(jobs)
    hashes = {job.name: checksums.content for job, checksums in zip(jobs, sums, strict=True)}
    target.write_at(0, header(hashes))
    return start + length, hashes
