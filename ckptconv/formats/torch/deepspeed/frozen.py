"""Parameters that are not in the optimizer: whole in the model states, or in stage 3 in parts, one for each rank."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.formats.torch.deepspeed.flat import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.deepspeed.reading import Reading
    from ckptconv.formats.torch.deepspeed.states import ModelStates


def frozen(reading: Reading, models: Sequence[ModelStates]) -> dict[str, LazyTensor]:
    """The tensors by name. Raises CorruptFileError if a rank's part does not have the size that the shape requires."""
    result: dict[str, LazyTensor] = {}
    for name, shape in models[0].frozen_shapes.items():
        parts = [reading.place(f"frozen_param_fragments.{name}", model.frozen[name]) for model in models]
        if models[0].divided:
            count = -(-prod(shape) // len(parts))
            _check(name, models, parts, (count,))
            result[name] = rows(parts, 0, count, shape, reading.alias(name))
        else:
            _check(name, models, parts, shape)
            result[name] = replace(parts[0], alias=reading.alias(name))
    return result


def _check(name: str, models: Sequence[ModelStates], parts: Sequence[LazyTensor], shape: tuple[int, ...]) -> None:
    dtype = parts[0].info.dtype
    for model, part in zip(models, parts, strict=True):
        if part.info.shape != shape or part.info.dtype is not dtype or dtype.bits % 8:
            raise model.file.error(
                f"its part of the frozen {name!r} is {part.info.dtype} {list(part.info.shape)}, and should be "
                f"{dtype} {list(shape)}"
            )


def check_alike(models: Sequence[ModelStates]) -> None:
    """Raise CorruptFileError unless all ranks' files list the same parameters and shapes."""
    for other in models[1:]:
        if (other.shapes, other.frozen_shapes) != (models[0].shapes, models[0].frozen_shapes):
            raise other.file.error(f"its param_shapes are others than those of {models[0].file.name}")
