"""Kinds of adapters that add products of factors common to all modules, with numbers for each module.

    VeRA       diag(b) B diag(d) A
    RandLora   the sum of Bᵢ diag(λᵢ) A diag(γᵢ), of full rank
    VB-LoRA    factors whose pieces are mixed from a bank of vectors

A and B are as large as the largest module needs; smaller modules use their first rows and columns.

Sources: peft's tuners/vera/layer.py, tuners/randlora/layer.py and tuners/vblora/layer.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.deltas import Scaled
from ckptconv.edits.adapters.matrices import Factor, FirstColumns, Transposed
from ckptconv.edits.adapters.merged import matrix_shape
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.matrices import Matrix
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]
    Changes = tuple[Change, ...]


def vera(module: Module, shape: Shape) -> Changes:
    """Common factors, with a number for each output and each rank."""
    rows, columns = matrix_shape(shape)
    outputs, inputs = (columns, rows) if module.inputs_first else (rows, columns)
    down, up = module.matrix("vera_A"), module.matrix("vera_B")
    rank = down.shape[0]
    if up.shape[1] != rank or down.shape[1] < inputs or up.shape[0] < outputs:
        raise module.misfit(shape, f"the factors of {list(up.shape)} and {list(down.shape)}")
    module.check_held(prod(down.shape))
    scales, numbers = module.vector("vera_lambda_b", outputs), module.vector("vera_lambda_d", rank)
    right = module.computed((rank, inputs), lambda: numbers.whole() * down.whole()[:, :inputs])
    product = module.product(Factor(up.tensor, (outputs, rank)), right)
    return module.add_delta(Scaled(product, scales, 1 if module.inputs_first else 0), shape)


def randlora(module: Module, shape: Shape) -> Changes:
    """A product of full rank: common factors, with numbers for the ranks and for the shorter side.

    A is r × 1 × the shorter side, B is the longer side × bases × r. If there are fewer outputs than inputs, the product
    is transposed.
    """
    rows, columns = matrix_shape(shape)
    outputs, inputs = (columns, rows) if module.inputs_first else (rows, columns)
    short, long = min(outputs, inputs), max(outputs, inputs)
    down, up, scales = (module.tensor(part).info.shape for part in ("randlora_A", "randlora_B", "randlora_lambda"))
    if len(down) != 3 or len(up) != 3 or len(scales) != 2 or not prod(up):
        raise module.fail(f"its factors are of shapes {list(down)} and {list(up)}")
    rank, bases = scales
    if (rank, 1, rank) != (down[0], down[1], up[2]) or down[2] < short or up[0] < long or not 0 < bases <= up[1]:
        raise module.misfit(shape, f"the factors of {list(up)} and {list(down)}")
    module.check_held(prod(down))
    base = module.factor_of("randlora_A", (rank, down[2]))
    numbers, gains = module.vector("randlora_lambda", rank * bases), module.factor_of("randlora_gamma", (bases, short))

    def right() -> Array:
        result: Array = numbers.whole().reshape(rank, bases, 1) * base.whole()[:, None, :short] * gains.whole()
        return result.reshape(rank * bases, short)

    first = FirstColumns(Factor(module.tensor("randlora_B"), (long, up[1] * rank)), bases * rank)
    second = module.computed((rank * bases, short), right)
    transpose = module.inputs_first != (outputs < inputs)
    product = module.low_rank(Transposed(second), Transposed(first)) if transpose else module.low_rank(first, second)
    return module.add_delta(product, shape)


def randlora_scale(module: Module) -> float:
    """Alpha over the rank."""
    return module.config.real("randlora_alpha", 640) / module.rank if module.rank else 1.0


def vblora(module: Module, shape: Shape) -> Changes:
    """Factors made of pieces, each a weighted sum of a few vectors of a bank."""
    bank = module.matrix("vblora_vector_bank")
    module.check_held(prod(bank.shape))
    (high, rank, _), (_, wide, _) = _logits(module, "vblora_logits_B"), _logits(module, "vblora_logits_A")
    if _logits(module, "vblora_logits_A")[0] != rank:
        raise module.fail(f"its factors are of ranks {rank} and {_logits(module, 'vblora_logits_A')[0]}")
    length = bank.shape[1]

    def up() -> Array:
        return _mix(module, "vblora_logits_B", bank).transpose(0, 2, 1).reshape(-1, rank)

    def down() -> Array:
        return _mix(module, "vblora_logits_A", bank).reshape(rank, -1)

    left, right = module.computed((high * length, rank), up), module.computed((rank, wide * length), down)
    return module.add_delta(module.product(left, right), shape)


def _logits(module: Module, part: str) -> tuple[int, int, int]:
    """The shape of a factor's logits, or of the indices that are saved instead."""
    stored = part if part in module.parts else f"{part}_topk_indices"
    if stored not in module.parts or (stored != part and f"{part}_topk_weights" not in module.parts):
        raise module.fail(f"{part} is missing")
    shape = module.parts[stored].info.shape
    if len(shape) != 3 or not prod(shape):
        raise module.fail(f"{stored} is of shape {list(shape)}")
    module.check_held(prod(shape))
    return shape[0], shape[1], shape[2]


def _mix(module: Module, part: str, bank: Matrix) -> Array:
    """The pieces of a factor: two dimensions of vectors."""
    import numpy as np

    first, second, count = _logits(module, part)
    if part in module.parts:
        most = module.config.count("topk", 2)
        logits = module.factor_of(part, (first * second, count)).whole()
        if not 1 <= most <= count:
            raise module.fail(f"the configuration says {most} for topk, of {count} vectors")
        chosen = np.argpartition(-logits, most - 1, axis=1)[:, :most]
        weights = np.take_along_axis(logits, chosen, 1)
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        chosen = module.factor_of(f"{part}_topk_indices", (first * second, count)).whole().astype(np.int64)
        known = module.factor_of(f"{part}_topk_weights", (first * second, count - 1)).whole()
        weights = np.concatenate([known, 1 - known.sum(axis=1, keepdims=True)], axis=1)
    if chosen.min() < 0 or chosen.max() >= bank.shape[0]:
        raise CorruptFileError(
            f"{module.name!r}: a vector of {part} is not among the {bank.shape[0]:,} of the bank",
            hint="the adapter may be damaged",
        )
    result = np.zeros((first * second, bank.shape[1]), np.float64)
    for number in range(chosen.shape[1]):
        result += weights[:, number, None] * bank.whole()[chosen[:, number]]
    return result.reshape(first, second, -1)
