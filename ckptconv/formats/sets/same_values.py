"""A tensor, or a part of one, that several files hold: it must be equal in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor


@dataclass(frozen=True, slots=True)
class SameInAll:
    """Reads ranges of a tensor from every file, and compares them. Uses memory for twice the range."""

    name: str
    tensors: tuple[tuple[str, LazyTensor], ...]
    light = True

    def __call__(self, start: int, stop: int) -> memoryview:
        (first_file, first), *others = self.tensors
        image = first.read(start, stop)
        for file, tensor in others:
            if tensor.read(start, stop) != image:
                raise CorruptFileError(
                    f"{self.name!r} has other values in {file} than in {first_file}, where both have the same of it",
                    hint="the files are not of one checkpoint, or one of them is damaged",
                )
        return image
