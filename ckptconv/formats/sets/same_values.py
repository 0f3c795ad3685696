"""What several files have alike, a tensor or the same part of one: it has to be equal in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class SameInAll:
    """Reads ranges of an image that every file has, and compares them; memory for two of the range."""

    name: str
    tensors: tuple[tuple[str, LazyTensor], ...]
    light = True

    def __call__(self, start: int, stop: int) -> memoryview:
        (one, tensor), *others = self.tensors
        image = tensor.read(start, stop)
        for file, other in others:
            if other.read(start, stop) != image:
                raise CorruptFileError(
                    f"{self.name!r} has other values in {file} than in {one}, where both have the same of it",
                    hint="the files are not of one checkpoint, or one of them is damaged",
                )
        return image
