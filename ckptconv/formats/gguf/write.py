"""Writer of a GGUF file: version 3, little-endian.

As for safetensors, all is planned from headers, tensors are streamed to their places, and the header goes in last, with
the content digest where there is a record to hold it. Tensors keep their order, and blocks are copied as they are.
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
from ckptconv.formats.gguf.metadata import entries, says_it_all
from ckptconv.formats.gguf.reference import open_with_gguf
from ckptconv.formats.gguf.stored import accepted, stored_as
from ckptconv.formats.gguf.values import Typed, code_of, spell, spell_text
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
class Planned:
    """What will be in the file: tensors, and the metadata."""

    plan: Plan
    keeps_record: bool

    def values(self, digest: str | None) -> dict[str, Typed]:
        """The file's metadata."""
        record = replace(self.plan.record, root=self.plan.root, digest=digest)
        said = entries(record, quantized=any(info.dtype.block > 1 for info in self.plan.infos.values()))
        return {**said, records.KEY: ("string", record.spell(self.plan.infos))} if self.keeps_record else said


def planned(checkpoint: Checkpoint, *, plain: bool) -> Planned:
    """Decide names, types and metadata. `plain` leaves the record out where the tensors can do without it."""
    silent = plain or says_it_all(checkpoint)
    made = plan(checkpoint, accepted, stored_as, keeps_metadata=not silent)
    return Planned(made, not silent or made.needs_record or bool(made.record.ties))


def _offsets(infos: dict[str, TensorInfo], alignment: int) -> tuple[dict[str, int], int]:
    """Offsets within the data, by name, and its size."""
    offsets, position = {}, 0
    for name, info in infos.items():
        offsets[name] = position
        position += info.nbytes + -info.nbytes % alignment
    return offsets, position


def _header(infos: dict[str, TensorInfo], values: dict[str, Typed], offsets: dict[str, int]) -> bytes:
    parts = [MAGIC, pack("<IQQ", VERSION, len(infos), len(values))]
    for key, (name, value) in values.items():
        parts += [spell_text(key), pack("<I", code_of(name)), spell(name, value)]
    for name, info in infos.items():
        dims = info.shape[::-1]
        code = CODE_BY_NAME[info.dtype.name]
        parts += [spell_text(name), pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offsets[name])]
    text = b"".join(parts)
    if len(text) > MAX_GGUF_HEADER:
        raise LimitError(
            f"the header would have {len(text):,} bytes; the limit is {MAX_GGUF_HEADER:,}",
            hint="--bare leaves the metadata out",
        )
    return text + bytes(-len(text) % alignment_of(values))


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError, RejectedOutputError."""
    made = planned(checkpoint, plain=options.plain)
    digest = None

    def values(hashes: Hashes | None) -> dict[str, Typed]:
        nonlocal digest
        digest = made.plan.digest(checkpoint, hashes) if made.keeps_record and hashes is not None else None
        return made.values(digest or PLACEHOLDER)

    size, _ = write_file(target, made, made.plan.stored, values, options.progress)
    return WriteResult(size, digest, checked(target))


def write_file(
    target: Target, made: Planned, names: Iterable[str],
    values: Callable[[Hashes | None], dict[str, Typed]], progress: Progress | None,
) -> tuple[int, Hashes]:  # fmt: skip
    """Write the stored tensors of these names as one file. Gives its size, and their content hashes.

    values: the file's metadata; asked before any byte is written, and with the hashes when all are. Both answers have
            the same length.
    """
    stored = {name: made.plan.stored[name] for name in names}
    infos = {name: made.plan.infos[name] for name in stored}
    offsets, length = _offsets(infos, alignment_of(values(None)))

    def header(hashes: Hashes | None) -> bytes:
        return _header(infos, values(hashes), offsets)

    return write_behind(target, header, stored, offsets, length, content=made.keeps_record, progress=progress)


def checked(target: Target) -> tuple[Finding, ...]:
    """Let the reference reader open the file before it gets its name; a finding where it is not installed."""
    try:
        open_with_gguf(target.readable_path)
    except ModuleNotFoundError:
        message = "the gguf package, which would check the file, is not installed: pip install 'ckptconv[gguf]'"
        return (Finding("unchecked", "info", "", message),)
    except (ValueError, KeyError, IndexError) as error:
        raise RejectedOutputError(f"the gguf package refuses what was written: {error}") from error
    return ()
