"""Writer of an .npz archive: uncompressed entries without time stamps; arrays in C order, aligned to 64 bytes.

The record is left out if arrays and names are all there is, so that numpy.load finds only arrays. Without any array it
is always written, even with ``--bare``: an empty zip archive could be anything.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from ckptconv.core.metadata import StateDict
from ckptconv.errors import LimitError, RejectedOutputError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.npz.stored import accepted, stored_as
from ckptconv.formats.targets.plan import is_unnoted, plan
from ckptconv.formats.tensors.npy import RECORD, SUFFIX, encode_header
from ckptconv.io.checksum import crc32, joined_crc32
from ckptconv.io.digest import PLACEHOLDER
from ckptconv.io.limits import MAX_SAFETENSORS_HEADER
from ckptconv.io.stream import Job, Streamer
from ckptconv.io.zip_writing import directory_size, end_of, plan_entries, write_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.target import Target


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError, RejectedOutputError."""
    heads, result = _write_archive(checkpoint, target, options)
    _check(target, heads)
    return result


def _write_archive(
    checkpoint: Checkpoint, target: Target, options: WriteOptions
) -> tuple[dict[str, bytes], WriteResult]:
    """Write the archive. Returns the arrays' headers by name, and the result."""
    keeps_metadata = len(checkpoint) == 0 or not (options.plain or _needs_no_record(checkpoint))
    tensor_plan = plan(checkpoint, accepted, stored_as, keeps_metadata=keeps_metadata)
    keeps_record = keeps_metadata or tensor_plan.needs_record or bool(tensor_plan.record.ties)
    head_of = {info: encode_header(info) for info in set(tensor_plan.infos.values())}
    heads = {name: head_of[info] for name, info in tensor_plan.infos.items()}
    sizes = [(name + SUFFIX, len(heads[name]) + info.nbytes) for name, info in tensor_plan.infos.items()]
    if keeps_record:
        sizes.append((RECORD, len(_record_bytes(tensor_plan, PLACEHOLDER))))
    entries = plan_entries(sizes)
    target.reserve(end_of(entries) + directory_size(entries))
    jobs, crcs = [], {}
    for (name, head), entry in zip(heads.items(), entries, strict=False):
        target.write_at(entry.data, head)
        jobs.append(Job(name, tensor_plan.stored[name], entry.data + len(head)))
    sums = Streamer(target, crc=True, content=keeps_record, progress=options.progress).run(jobs)
    for job, entry, tensor_sums in zip(jobs, entries, sums, strict=False):
        crcs[entry.name] = joined_crc32(crc32(heads[job.name]), tensor_sums.crc32, tensor_plan.infos[job.name].nbytes)
    digest = None
    if keeps_record:
        hashes = {job.name: tensor_sums.content for job, tensor_sums in zip(jobs, sums, strict=True)}
        digest = tensor_plan.digest(checkpoint, hashes)
        text = _record_bytes(tensor_plan, digest)
        target.write_at(entries[-1].data, text)
        crcs[entries[-1].name] = crc32(text)
    size = write_headers(target, entries, crcs)
    return heads, WriteResult(size, digest)


def _needs_no_record(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint consists of named tensors and nothing else."""
    return not checkpoint.extras and checkpoint.root == StateDict() and is_unnoted(checkpoint)


def _record_bytes(tensor_plan: Plan, digest: str) -> bytes:
    text = replace(tensor_plan.record, root=tensor_plan.root, digest=digest).spell(tensor_plan.infos).encode("ascii")
    if len(text) > MAX_SAFETENSORS_HEADER:
        raise LimitError(
            f"the record would have {len(text):,} bytes; the limit is {MAX_SAFETENSORS_HEADER:,}",
            hint="--bare leaves the metadata out",
        )
    return text


def _check(target: Target, heads: Mapping[str, bytes]) -> None:
    """Let numpy open the file and read the arrays' headers, before the file gets its name.

    Equal headers are read once: each read leaves a kilobyte to the garbage collector.
    """
    import numpy as np
    from numpy.lib import format as npy

    try:
        with np.load(target.readable_path, allow_pickle=False) as file:
            known: set[bytes] = set()
            for name, head in heads.items():
                with file.zip.open(name + SUFFIX) as array:
                    found = array.read(len(head))
                if found not in known and npy.read_magic(start := BytesIO(found)) == (1, 0):
                    npy.read_array_header_1_0(start)
                known.add(found)
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise RejectedOutputError(f"numpy refuses what was written: {error}") from error
