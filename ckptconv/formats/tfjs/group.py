"""The bytes of several files as one sequence, from which tensors are taken in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.formats.tfjs.manifest import bad
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.io.source import Source


class GroupBytes:
    """Takes consecutive runs of bytes, without reading them. `left`: how many remain."""

    def __init__(self, files: Sequence[Source]) -> None:
        self._files = files
        self._index = self._offset = 0
        self.left = sum(file.size for file in files)

    def take(self, info: TensorInfo, name: str) -> LazyTensor:
        """The tensor whose bytes come next. Raises CorruptFileError if too few are left."""
        spans = self._spans(info.nbytes, repr(name))
        if len(spans) == 1:
            return in_file(info, spans[0], (id(self), name))
        parts = [in_file(TensorInfo.of(DType.U8, (span.length,)), span) for span in spans]
        pieces = Pieces([Piece(part, 0, part.info.nbytes) for part in parts])
        return LazyTensor(info, pieces, alias=(id(self), name), depends=pieces.depends)

    def bytes(self, length: int) -> bytes:
        """Read the next bytes."""
        return b"".join(bytes(span.file.read_at(span.offset, span.length)) for span in self._spans(length, "a text"))

    def _spans(self, length: int, whose: str) -> list[ByteSpan]:
        if length > self.left:
            raise bad(f"its files end within {whose}, which takes {length:,} bytes, and {self.left:,} are left")
        self.left -= length
        spans: list[ByteSpan] = []
        while length:
            file = self._files[self._index]
            part = min(length, file.size - self._offset)
            if part:
                spans.append(ByteSpan(file, self._offset, part))
            self._offset += part
            length -= part
            if length:
                self._index, self._offset = self._index + 1, 0
        return spans
