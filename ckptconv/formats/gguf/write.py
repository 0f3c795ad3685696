"""Writer of a single GGUF file: version 3, little-endian.

As for safetensors, everything is planned from headers, tensors are streamed to their places, and the header is written
last, with the content digest if there is a record to hold it. Tensors keep their order; blocks are copied unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.report import Finding
from ckptconv.errors import LimitError, RejectedOutputError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.gguf.layout import CODE_BY_NAME, MAGIC, VERSION, alignment_of
from ckptconv.formats.gguf.metadata import entries, needs_no_record
from ckptconv.formats.gguf.reference import open_with_gguf
from ckptconv.formats.gguf.stored import accepted, stored_as
from ckptconv.formats.gguf.values import Typed, encode, encode_text, type_code
from ckptconv.formats.targets.header_first import write_behind
from ckptconv.formats.targets.plan import plan
from ckptconv.io.digest import PLACEHOLDER
from ckptconv.io.limits import MAX_GGUF_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.targets.header_first import Hashes
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.target import Target


@dataclass(slots=True)
class FilePlan:
    """What will be written: tensors, metadata, and whether our record is among the metadata."""

    plan: Plan
    keeps_record: bool

    def values(self, digest: str | None) -> dict[str, Typed]:
        """The metadata entries of the file, or of the first file of several."""
        record = replace(self.plan.record, root=self.plan.root, digest=digest)
        values = entries(record, quantized=any(info.dtype.block > 1 for info in self.plan.infos.values()))
        if self.keeps_record:
            values[records.KEY] = ("string", record.spell(self.plan.infos))
        return values


def plan_file(checkpoint: Checkpoint, *, plain: bool) -> FilePlan:
    """Decide names, types and metadata. `plain` leaves the record out if the tensors don't need it."""
    keeps_metadata = not plain and not needs_no_record(checkpoint)
    tensor_plan = plan(checkpoint, accepted, stored_as, keeps_metadata=keeps_metadata)
    return FilePlan(tensor_plan, keeps_metadata or tensor_plan.needs_record or bool(tensor_plan.record.ties))


def _offsets(infos: dict[str, TensorInfo], alignment: int) -> tuple[dict[str, int], int]:
    """The tensors' offsets within the data, and the size of the data."""
    offsets, position = {}, 0
    for name, info in infos.items():
        offsets[name] = position
        position += info.nbytes + -info.nbytes % alignment
    return offsets, position


def _header(infos: dict[str, TensorInfo], values: dict[str, Typed], offsets: dict[str, int]) -> bytes:
    parts = [MAGIC, pack("<IQQ", VERSION, len(infos), len(values))]
    for key, (name, value) in values.items():
        parts += [encode_text(key), pack("<I", type_code(name)), encode(name, value)]
    for name, info in infos.items():
        dims = info.shape[::-1]
        code = CODE_BY_NAME[info.dtype.name]
        parts += [encode_text(name), pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offsets[name])]
    text = b"".join(parts)
    if len(text) > MAX_GGUF_HEADER:
        raise LimitError(
            f"the header would have {len(text):,} bytes; the limit is {MAX_GGUF_HEADER:,}",
            hint="--bare leaves the metadata out",
        )
    return text + bytes(-len(text) % alignment_of(values))


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError, RejectedOutputError."""
    file_plan = plan_file(checkpoint, plain=options.plain)
    digest = None

    def values(hashes: Hashes | None) -> dict[str, Typed]:
        nonlocal digest
        digest = file_plan.plan.digest(checkpoint, hashes) if file_plan.keeps_record and hashes is not None else None
        return file_plan.values(digest or PLACEHOLDER)

    size, _ = write_file(target, file_plan, file_plan.plan.stored, values, options.progress)
    return WriteResult(size, digest, check_with_gguf(target))


def write_file(
    target: Target, file_plan: FilePlan, names: Iterable[str],
    values: Callable[[Hashes | None], dict[str, Typed]], progress: Progress | None,
) -> tuple[int, Hashes]:  # fmt: skip
    """Write one file with the stored tensors of these names. Returns its size, and the tensors' content hashes.

    values: gives the file's metadata; called with None before the first byte is written, and with the hashes when all
            tensors are. Both results have to be of the same length.
    """
    stored = {name: file_plan.plan.stored[name] for name in names}
    infos = {name: file_plan.plan.infos[name] for name in stored}
    offsets, length = _offsets(infos, alignment_of(values(None)))

    def header(hashes: Hashes | None) -> bytes:
        return _header(infos, values(hashes), offsets)

    return write_behind(target, header, stored, offsets, length, content=file_plan.keeps_record, progress=progress)


def check_with_gguf(target: Target) -> tuple[Finding, ...]:
    """Let the gguf package open the file before it gets its name. Returns a finding if the package is not installed."""
    try:
        open_with_gguf(target.readable_path)
    except ModuleNotFoundError:
        message = "the gguf package, which would check the file, is not installed: pip install 'ckptconv[gguf]'"
        return (Finding("unchecked", "info", "", message),)
    except (ValueError, KeyError, IndexError) as error:
        raise RejectedOutputError(f"the gguf package refuses what was written: {error}") from error
    return ()
