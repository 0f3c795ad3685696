"""Kinds of adapters that add products of a module's own factors: LoRA and its variants, LoHa, LoKr.

    AdaLoRA    alpha / (r + 10⁻⁵) · B diag(E) A               DeLoRA    B diag(λ / (r ‖Bᵢ‖ ‖Aᵢ‖)) A diag(w)

Sources: peft's tuners/*/layer.py (`get_delta_weight` of each); LyCORIS' functional.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.edits.adapters.deltas import Hadamard, Kronecker, LowRank, Scaled, Whole
from ckptconv.edits.adapters.matrices import Cored
from ckptconv.edits.adapters.merged import matrix_shape
from ckptconv.edits.adapters.names import plain_module

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]
    Changes = tuple[Change, ...]


def alpha_over_rank(module: Module) -> float:
    """What the product is multiplied by: alpha over rank, or what the configuration says."""
    if "alpha" not in module.parts:
        return module.config.scale(plain_module(module.name), module.rank)
    return module.number("alpha") / module.rank if module.rank else 1.0


def lora(module: Module, shape: Shape) -> Changes:
    """Factors r × inputs and outputs × r; with a core between them, Tucker's."""
    plain, transposed = module.fits(shape)
    if transposed and (module.inputs_first or not plain):
        return module.add_delta(module.low_rank(module.transposed("down"), module.transposed("up")), shape, along=1)
    down, up = module.matrix("down"), module.matrix("up")
    if not plain:
        inputs = down.shape[1] * (prod(module.parts["mid"].info.shape[2:]) if "mid" in module.parts else 1)
        raise module.misfit(shape, f"the adapter is for [{up.shape[0]}, {inputs}]")
    if "mid" not in module.parts:
        return module.add_delta(module.low_rank(up, down), shape)
    return module.add_delta(module.low_rank(up, _with_core(module, "mid", "down")), shape)


def embedding(module: Module, shape: Shape) -> Changes:
    """LoRA of an embedding, which is inputs × outputs."""
    left, right = module.transposed("embedding_down"), module.transposed("embedding_up")
    return module.add_delta(module.low_rank(left, right), shape, along=1)


def of_mlx(module: Module, shape: Shape) -> Changes:
    """LoRA with mlx-lm's factors."""
    return module.add_delta(mlx.product(module, shape), shape)


def loha(module: Module, shape: Shape) -> Changes:
    """The product of two products, element by element."""
    pairs = []
    for number in "12":
        left, right, core = f"hada_w{number}_a", f"hada_w{number}_b", f"hada_t{number}"
        if core in module.parts:
            pairs.append(module.low_rank(module.transposed(left), _with_core(module, core, right)))
        else:
            pairs.append(module.low_rank(module.matrix(left), module.matrix(right)))
    if pairs[0].shape != pairs[1].shape:
        raise module.fail(f"its two products are of shapes {list(pairs[0].shape)} and {list(pairs[1].shape)}")
    return module.add_delta(Hadamard(*pairs), shape)


def lokr(module: Module, shape: Shape) -> Changes:
    """The Kronecker product of two matrices, each stored whole or as factors."""
    first, second = _kronecker_side(module, "lokr_w1"), _kronecker_side(module, "lokr_w2")
    for side in (first, second):
        module.check_held(prod(side.shape))
        if isinstance(side, LowRank):
            module.check_held(prod(side.left.shape))
    return module.add_delta(Kronecker(first, second), shape)


def _with_core(module: Module, core: str, inner: str) -> Cored:
    shape, factor = module.parts[core].info.shape, module.matrix(inner)
    if len(shape) < 3 or shape[1] != factor.shape[0]:
        raise module.fail(f"{core} is of shape {list(shape)}, and {inner} of {list(factor.shape)}")
    module.check_held(prod(shape))
    module.check_held(prod(factor.shape))
    return Cored(module.matrix(core), factor)


def _kronecker_side(module: Module, part: str) -> Whole | LowRank:
    if part in module.parts:
        return Whole(module.matrix(part))
    left, right = f"{part}_a", f"{part}_b"
    if left not in module.parts or right not in module.parts:
        raise module.fail(f"{part} is missing")
    if part == "lokr_w2" and "lokr_t2" in module.parts:
        return module.low_rank(module.transposed(left), _with_core(module, "lokr_t2", right))
    return module.low_rank(module.matrix(left), module.matrix(right))


def whole(module: Module, shape: Shape) -> Changes:
    """A difference that is stored as it is."""
    return module.add_delta(Whole(module.factor_of("diff", matrix_shape(shape))), shape)


def adalora(module: Module, shape: Shape) -> Changes:
    """A LoRA with a number for each rank; training removes ranks, and if none is left there is no change."""
    if not module.rank:
        return ()
    up, down = module.matrix("up"), module.matrix("down")
    numbers = module.vector("lora_E", down.shape[0])
    right = module.computed(down.shape, lambda: numbers.whole() * down.whole())
    return module.add_delta(module.product(up, right), shape)


def adalora_scale(module: Module) -> float:
    """Alpha (or if that is not positive, the rank) over the rank that training began with; peft saves no other rank."""
    alpha = module.config.alpha or 0.0
    initial = module.number("ranknum") if "ranknum" in module.parts else module.config.count("init_r", 12)
    if initial < 0:
        raise module.fail(f"it says that training began with {initial:g} ranks")
    return (alpha if alpha > 0 else module.rank) / (initial + 1e-5)


def delora(module: Module, shape: Shape) -> Changes:
    """A LoRA whose ranks are scaled to one length, with a number for each input."""
    import numpy as np

    up, down = module.matrix("delora_B"), module.matrix("delora_A")
    module.check_held(prod(up.shape))
    length = module.number("delora_lambda")

    def right() -> Array:
        down_norms = np.maximum(np.linalg.norm(down.whole(), axis=1), 1e-4)
        up_norms = np.maximum(np.linalg.norm(up.whole(), axis=0), 1e-4)
        result: Array = (length / down.shape[0] / (down_norms * up_norms))[:, None] * down.whole()
        return result

    product = module.low_rank(up, module.computed(down.shape, right))
    return module.add_delta(Scaled(product, module.vector("delora_w_norm", down.shape[1]), 1), shape)
