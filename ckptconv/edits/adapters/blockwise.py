"""Kinds of adapters that add blocks (`blocks`), or single elements, to a module's weight.

    GraLoRA    a grid of products, and a LoRA of all          C3A       circulant blocks, over the inputs
    MiSS       a repeated block; Bone's "bat" also multiplies the weight by blocks
    SHiRA      numbers for single elements

Sources: peft's tuners/gralora/layer.py, tuners/miss/layer.py, tuners/c3a/layer.py and tuners/shira/layer.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.blocks import Circulant, Grid, Sparse, Tiled
from ckptconv.edits.adapters.matrices import Transposed
from ckptconv.edits.adapters.merged import Add, matrix_shape
from ckptconv.edits.adapters.rotations import Rotate

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]
    Changes = tuple[Change, ...]


def gralora(module: Module, shape: Shape) -> Changes:
    """A grid of products, and a LoRA of the whole weight if there is one."""
    sizes = [module.parts[part].info.shape for part in ("gralora_A", "gralora_B")]
    if any(len(size) != 3 or not prod(size) for size in sizes):
        raise module.fail(f"its factors are of shapes {list(sizes[0])} and {list(sizes[1])}")
    (count, wide, rank), (count_up, rank_up, high) = sizes
    if count != count_up or rank != rank_up or rank % count:
        raise module.fail(f"its factors are of shapes {list(sizes[0])} and {list(sizes[1])}")
    for size in sizes:
        module.check_held(prod(size))
    down, up = module.factor_of("gralora_A", (count * wide, rank)), module.factor_of("gralora_B", (count * rank, high))
    result = module.add_delta(Grid((count * high, count * wide), count, down, up), shape)
    if not {"gralora_A_general", "gralora_B_general"} & module.parts.keys():
        return result
    left, right = module.matrix("gralora_B_general"), module.matrix("gralora_A_general")
    return (*result, *module.add_delta(module.low_rank(left, right), shape))


def gralora_scale(module: Module) -> float:
    """Alpha over the sum of both ranks."""
    general = module.parts.get("gralora_A_general")
    alpha = 64.0 if module.config.alpha is None else module.config.alpha
    rank = module.rank + (general.info.shape[0] if general and general.info.shape else 0)
    return alpha / rank if rank else 1.0


def tiled(module: Module, shape: Shape) -> Changes:
    """A block r × outputs or smaller, repeated; or a block for each r outputs, which also multiplies ("bat")."""
    part = next(part for part in ("miss_block", "bone_block") if part in module.parts)
    size, (rows, columns) = module.parts[part].info.shape, matrix_shape(shape)
    if len(size) == 3:
        return _bat(module, part, shape)
    tile = module.matrix(part)
    rank, high = tile.shape
    if rank > columns or rows % high:
        raise module.misfit(shape, f"the adapter's block of {list(size)}")
    module.check_held(prod(tile.shape))
    return module.add_delta(Tiled((rows, columns), Transposed(tile)), shape)


def _bat(module: Module, part: str, shape: Shape) -> Changes:
    size, (rows, columns) = module.parts[part].info.shape, matrix_shape(shape)
    rank = size[2]
    if not prod(size) or size[1] != rank or size[0] * rank != rows or columns % rank:
        raise module.misfit(shape, f"the adapter's blocks of {list(size)}")
    if module.scale != 1:
        raise module.fail("blocks that multiply the weight take no scale", "--lora ADAPTER alone")
    module.check_held(prod(size))
    blocks = module.factor_of(part, (rows, rank))

    def matrices() -> Array:
        import numpy as np

        result: Array = blocks.whole().reshape(1, -1, rank, rank) + np.eye(rank)
        return result

    tensors = tuple(module.parts.values())
    return Rotate(rank, matrices, tensors, high=rank), Add(Tiled((rows, columns), blocks), 1.0, tensors)


def c3a(module: Module, shape: Shape) -> Changes:
    """Circulant blocks; the kernels are outputs / b × inputs / b × b."""
    size, inputs = module.parts["c3a_kernel"].info.shape, matrix_shape(shape)[1]
    if len(size) != 3 or not prod(size):
        raise module.fail(f"c3a_kernel is of shape {list(size)}")
    module.check_held(prod(size))
    vectors = module.factor_of("c3a_kernel", (size[0] * size[1], size[2]))
    delta = Circulant((size[0] * size[2], size[1] * size[2]), vectors)
    return module.add_delta(delta, shape, scale=module.scale / max(inputs, 1))


def shira(module: Module, shape: Shape) -> Changes:
    """Numbers added to single elements."""
    count = module.parts["shira_weight"].info.numel
    module.check_held(2 * count)
    places = module.factor_of("shira_indices", (2, count))
    return module.add_delta(Sparse(matrix_shape(shape), module.vector("shira_weight", count), places), shape)
