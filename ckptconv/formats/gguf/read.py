"""Reader of a single GGUF file, with our record if it has one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.encodings import own_tensors
from ckptconv.core.notes import Notes
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan, LazyTensor
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.layout import Header, read_header
from ckptconv.formats.gguf.metadata import SOURCE, foreign_root, recorded_root, types_to_note
from ckptconv.formats.gguf.stored import stored_as
from ckptconv.formats.gguf.templates import programs_in
from ckptconv.formats.targets.blobs import restore
from ckptconv.io.gather import laid_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.values import Typed
    from ckptconv.formats.tensors.headers import Slot
    from ckptconv.io.folder import Folder
    from ckptconv.io.source import Source

SWAPPED: dict[str, tuple[int, ...]] = {"Q4_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,), "MXFP4": ()}
"""Offsets of a block's two-byte numbers, for the quantized types that llama.cpp's ``gguf_convert_endian.py`` swaps."""


def read(source: Source) -> Checkpoint:
    """Open the file. Reads the header, and metadata that was too large for it, but no tensors.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is refused by name.
    """
    header = read_header(source)
    findings = _single_part_finding(header)
    return assemble(tensors_of(source, header), header.values, findings, format="gguf", file=source)


def tensors_of(source: Source, header: Header) -> dict[str, LazyTensor]:
    """The tensors of one file, by name."""
    return {name: _tensor(source, name, slot, swapped=header.big_endian) for name, slot in header.slots.items()}


def assemble(
    tensors: dict[str, LazyTensor], values: Mapping[str, Typed], findings: list[Finding], *, format: str,
    file: Source | Folder,
) -> Checkpoint:  # fmt: skip
    """The checkpoint that tensors and metadata form, as our record says if there is one."""
    programs = tuple(programs_in(values))
    kind, text = values.get(records.KEY, ("", None))
    if kind != "string" or not isinstance(text, str) or not text.startswith("{"):
        notes = Notes(source=SOURCE, types=types_to_note(values, values), programs=programs)
        root = foreign_root(values)
        return Checkpoint(tensors, root=root, format=format, notes=notes, findings=tuple(findings), file=file)
    record = records.parse(text)
    own = own_tensors(tensors, record, findings, stored_as)
    root = restore(recorded_root(record, values), own, findings)
    known = root if isinstance(root, dict) else {}
    kept = {key: name for key, name in record.notes.types.items() if key in known and key not in values}
    record.notes = replace(record.notes, types=kept | types_to_note(values, known), programs=programs)
    return recorded_checkpoint(record, root, own, findings, format=format, file=file)


def _single_part_finding(header: Header) -> list[Finding]:
    """A finding if the file is one of several."""
    (_, number), (_, count) = (header.values.get(f"split.{key}", ("", None)) for key in ("no", "count"))
    if not isinstance(number, int) or not isinstance(count, int) or count < 2:
        return []
    message = f"this is part {number + 1} of {count}: the model's other tensors are in the other files"
    return [Finding("part", "warning", "", message, str(count), str(number + 1))]


def _tensor(source: Source, name: str, slot: Slot, *, swapped: bool) -> LazyTensor:
    span, dtype = ByteSpan(source, slot.start, slot.info.nbytes), slot.info.dtype
    alias = (id(source), name)
    if swapped and dtype.block > 1 and slot.info.nbytes:
        if dtype.name not in SWAPPED:
            raise UnsupportedError(
                f"{name!r} is {dtype} in a big-endian file, which is not supported",
                hint="write the file on a little-endian machine",
            )
        return LazyTensor(slot.info, _SwappedBlocks(span, dtype.bits // 8, SWAPPED[dtype.name]), None, alias, (span,))
    return laid_out(slot.info, span, alias, swapped=swapped)


@dataclass(frozen=True, slots=True)
class _SwappedBlocks:
    """Reads blocks of `width` bytes, whose two-byte numbers, at `offsets` in each block, are big-endian."""

    span: ByteSpan
    width: int
    offsets: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> memoryview:
        import numpy as np

        first, last = start // self.width, -(-stop // self.width)
        data = self.span.file.read_at(self.span.offset + first * self.width, (last - first) * self.width)
        blocks = np.array(data, dtype=np.uint8).reshape(-1, self.width)
        for at in self.offsets:
            blocks[:, [at, at + 1]] = blocks[:, [at + 1, at]]
        return blocks.reshape(-1).data[start - first * self.width : stop - first * self.width]
