"""Changes that are added to a weight, of the tensors for one module: LoRA and what has factors as it has, LoHa, LoKr,
and those in blocks (`blocks`).

    AdaLoRA    alpha / (r + 10⁻⁵) · B diag(E) A               VeRA      diag(b) B diag(d) A, A and B of all modules
    DeLoRA     B diag(λ / (r ‖Bᵢ‖ ‖Aᵢ‖)) A diag(w)            VB-LoRA   factors whose pieces are mixed of a bank
    GraLoRA    a grid of products, and a LoRA of all          C3A       circulant blocks, over the inputs

A and B of VeRA are as large as the largest module wants; the others take their beginnings.

Sources: peft's tuners/*/layer.py, of each `get_delta_weight`; LyCORIS' functional.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.edits.adapters.blocks import Circulant, Grid, Sparse, Tiled
from ckptconv.edits.adapters.deltas import Hadamard, Kronecker, LowRank, Scaled, Whole
from ckptconv.edits.adapters.matrices import Cored, Factor, Narrow, Turned
from ckptconv.edits.adapters.merged import Add, sides
from ckptconv.edits.adapters.names import plain_module
from ckptconv.edits.adapters.rotations import Rotate
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.matrices import Left, Matrix
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]
    Changes = tuple[Change, ...]


def alpha_over_rank(module: Module) -> float:
    """By what the product of factors is multiplied."""
    if "alpha" not in module.parts:
        return module.config.scale(plain_module(module.name), module.rank)
    return module.number("alpha") / module.rank if module.rank else 1.0


def lora(module: Module, shape: Shape) -> Changes:
    """Factors r × inputs and outputs × r; with a core between them, Tucker's."""
    plain, turned = module.fits(shape)
    if turned and (module.turned or not plain):
        return module.added(module.low_rank(module.transposed("down"), module.transposed("up")), shape, along=1)
    down, up = module.matrix("down"), module.matrix("up")
    if not plain:
        inputs = down.shape[1] * (prod(module.parts["mid"].info.shape[2:]) if "mid" in module.parts else 1)
        raise module.fail(
            f"the base's weight is of shape {list(shape)}, and the adapter is for [{up.shape[0]}, {inputs}]"
        )
    if "mid" not in module.parts:
        return module.added(module.low_rank(up, down), shape)
    return module.added(module.low_rank(up, _cored(module, "mid", "down")), shape)


def embedding(module: Module, shape: Shape) -> Changes:
    """Of a table, which is inputs × outputs."""
    left, right = module.transposed("embedding_down"), module.transposed("embedding_up")
    return module.added(module.low_rank(left, right), shape, along=1)


def of_mlx(module: Module, shape: Shape) -> Changes:
    """Factors as mlx-lm has them."""
    return module.added(mlx.product(module, shape), shape)


def loha(module: Module, shape: Shape) -> Changes:
    """The product of two products, element by element."""
    pairs = []
    for number in "12":
        left, right, core = f"hada_w{number}_a", f"hada_w{number}_b", f"hada_t{number}"
        if core in module.parts:
            pairs.append(module.low_rank(module.transposed(left), _cored(module, core, right)))
        else:
            pairs.append(module.low_rank(module.matrix(left), module.matrix(right)))
    if pairs[0].shape != pairs[1].shape:
        raise module.fail(f"its two products are of shapes {list(pairs[0].shape)} and {list(pairs[1].shape)}")
    return module.added(Hadamard(*pairs), shape)


def lokr(module: Module, shape: Shape) -> Changes:
    """Kronecker's product of two matrices, each of them whole or of factors."""
    first, second = _side(module, "lokr_w1"), _side(module, "lokr_w2")
    for side in (first, second):
        module.hold(prod(side.shape))
        if isinstance(side, LowRank):
            module.hold(prod(side.left.shape))
    return module.added(Kronecker(first, second), shape)


def _cored(module: Module, core: str, inner: str) -> Cored:
    shape, factor = module.parts[core].info.shape, module.matrix(inner)
    if len(shape) < 3 or shape[1] != factor.shape[0]:
        raise module.fail(f"{core} is of shape {list(shape)}, and {inner} of {list(factor.shape)}")
    module.hold(prod(shape))
    module.hold(prod(factor.shape))
    return Cored(module.matrix(core), factor)


def _side(module: Module, part: str) -> Whole | LowRank:
    if part in module.parts:
        return Whole(module.matrix(part))
    left, right = f"{part}_a", f"{part}_b"
    if left not in module.parts or right not in module.parts:
        raise module.fail(f"{part} is missing")
    if part == "lokr_w2" and "lokr_t2" in module.parts:
        return module.low_rank(module.transposed(left), _cored(module, "lokr_t2", right))
    return module.low_rank(module.matrix(left), module.matrix(right))


def whole(module: Module, shape: Shape) -> Changes:
    """A difference that is stored as it is."""
    return module.added(Whole(module.factor_of("diff", sides(shape))), shape)


def turned(module: Module, left: Left, right: Left) -> LowRank:
    """Their product, or what it is in a base whose weights are inputs × outputs."""
    return module.low_rank(Turned(right), Turned(left)) if module.turned else module.low_rank(left, right)


def adalora(module: Module, shape: Shape) -> Changes:
    """A LoRA with a number for each of its ranks, of which training leaves some; where it leaves none, no change."""
    if not module.rank:
        return ()
    up, down = module.matrix("up"), module.matrix("down")
    numbers = module.vector("lora_E", down.shape[0])
    right = module.made(down.shape, lambda: numbers.whole() * down.whole())
    return module.added(turned(module, up, right), shape)


def adalora_scale(module: Module) -> float:
    """The alpha, or the rank where it is none, over the rank that training began with: peft does not save another."""
    alpha = module.config.alpha or 0.0
    began = module.number("ranknum") if "ranknum" in module.parts else module.config.count("init_r", 12)
    if began < 0:
        raise module.fail(f"it says that training began with {began:g} ranks")
    return (alpha if alpha > 0 else module.rank) / (began + 1e-5)


def vera(module: Module, shape: Shape) -> Changes:
    """Factors that all modules have in common, with numbers for outputs and ranks."""
    rows, columns = sides(shape)
    outputs, inputs = (columns, rows) if module.turned else (rows, columns)
    down, up = module.matrix("vera_A"), module.matrix("vera_B")
    rank = down.shape[0]
    if up.shape[1] != rank or down.shape[1] < inputs or up.shape[0] < outputs:
        raise module.fail(
            f"the base's weight is of shape {list(shape)}, and the factors of {list(up.shape)} and {list(down.shape)}"
        )
    module.hold(prod(down.shape))
    scales, numbers = module.vector("vera_lambda_b", outputs), module.vector("vera_lambda_d", rank)
    right = module.made((rank, inputs), lambda: numbers.whole() * down.whole()[:, :inputs])
    product = turned(module, Factor(up.tensor, (outputs, rank)), right)
    return module.added(Scaled(product, scales, 1 if module.turned else 0), shape)


def randlora(module: Module, shape: Shape) -> Changes:
    """A product of full rank, of factors of all modules with numbers for ranks and for the shorter side.

    A is r × 1 × the shorter side, B the longer one × bases × r; where outputs are fewer than inputs, all is turned.
    """
    rows, columns = sides(shape)
    outputs, inputs = (columns, rows) if module.turned else (rows, columns)
    short, long = min(outputs, inputs), max(outputs, inputs)
    down, up, scales = (module.tensor(part).info.shape for part in ("randlora_A", "randlora_B", "randlora_lambda"))
    if len(down) != 3 or len(up) != 3 or len(scales) != 2 or not prod(up):
        raise module.fail(f"its factors are of shapes {list(down)} and {list(up)}")
    rank, bases = scales
    if (rank, 1, rank) != (down[0], down[1], up[2]) or down[2] < short or up[0] < long or not 0 < bases <= up[1]:
        raise module.fail(
            f"the base's weight is of shape {list(shape)}, and the factors of {list(up)} and {list(down)}"
        )
    module.hold(prod(down))
    base = module.factor_of("randlora_A", (rank, down[2]))
    numbers, gains = module.vector("randlora_lambda", rank * bases), module.factor_of("randlora_gamma", (bases, short))

    def right() -> Array:
        made: Array = numbers.whole().reshape(rank, bases, 1) * base.whole()[:, None, :short] * gains.whole()
        return made.reshape(rank * bases, short)

    first = Narrow(Factor(module.tensor("randlora_B"), (long, up[1] * rank)), bases * rank)
    second = module.made((rank * bases, short), right)
    lies = module.turned != (outputs < inputs)
    product = module.low_rank(Turned(second), Turned(first)) if lies else module.low_rank(first, second)
    return module.added(product, shape)


def randlora_scale(module: Module) -> float:
    """The alpha over the rank."""
    return module.config.real("randlora_alpha", 640) / module.rank if module.rank else 1.0


def delora(module: Module, shape: Shape) -> Changes:
    """A LoRA whose ranks are of one length, with numbers for inputs."""
    import numpy as np

    up, down = module.matrix("delora_B"), module.matrix("delora_A")
    module.hold(prod(up.shape))
    length = module.number("delora_lambda")

    def right() -> Array:
        norms = [np.maximum(np.linalg.norm(one, axis=axis), 1e-4) for one, axis in ((down.whole(), 1), (up.whole(), 0))]
        made: Array = (length / down.shape[0] / (norms[0] * norms[1]))[:, None] * down.whole()
        return made

    product = module.low_rank(up, module.made(down.shape, right))
    return module.added(Scaled(product, module.vector("delora_w_norm", down.shape[1]), 1), shape)


def vblora(module: Module, shape: Shape) -> Changes:
    """Factors of pieces, each of them the sum of a few vectors of a bank, with weights."""
    bank = module.matrix("vblora_vector_bank")
    module.hold(prod(bank.shape))
    (high, rank, _), (_, wide, _) = _logits(module, "vblora_logits_B"), _logits(module, "vblora_logits_A")
    if _logits(module, "vblora_logits_A")[0] != rank:
        raise module.fail(f"its factors are of ranks {rank} and {_logits(module, 'vblora_logits_A')[0]}")
    length = bank.shape[1]

    def up() -> Array:
        return _mixed(module, "vblora_logits_B", bank).transpose(0, 2, 1).reshape(-1, rank)

    def down() -> Array:
        return _mixed(module, "vblora_logits_A", bank).reshape(rank, -1)

    left, right = module.made((high * length, rank), up), module.made((rank, wide * length), down)
    return module.added(turned(module, left, right), shape)


def _logits(module: Module, part: str) -> tuple[int, int, int]:
    """The shape of a factor's logits, or of the indices that are saved instead of them."""
    stored = part if part in module.parts else f"{part}_topk_indices"
    if stored not in module.parts or (stored != part and f"{part}_topk_weights" not in module.parts):
        raise module.fail(f"{part} is missing")
    shape = module.parts[stored].info.shape
    if len(shape) != 3 or not prod(shape):
        raise module.fail(f"{stored} is of shape {list(shape)}")
    module.hold(prod(shape))
    return shape[0], shape[1], shape[2]


def _mixed(module: Module, part: str, bank: Matrix) -> Array:
    """The pieces of a factor: of two dimensions each a vector."""
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
    made = np.zeros((first * second, bank.shape[1]), np.float64)
    for number in range(chosen.shape[1]):
        made += weights[:, number, None] * bank.whole()[chosen[:, number]]
    return made.reshape(first, second, -1)


def gralora(module: Module, shape: Shape) -> Changes:
    """A grid of products, and beside it a LoRA where there is one."""
    sizes = [module.parts[part].info.shape for part in ("gralora_A", "gralora_B")]
    if any(len(size) != 3 or not prod(size) for size in sizes):
        raise module.fail(f"its factors are of shapes {list(sizes[0])} and {list(sizes[1])}")
    (count, wide, rank), (count_up, rank_up, high) = sizes
    if count != count_up or rank != rank_up or rank % count:
        raise module.fail(f"its factors are of shapes {list(sizes[0])} and {list(sizes[1])}")
    for size in sizes:
        module.hold(prod(size))
    down, up = module.factor_of("gralora_A", (count * wide, rank)), module.factor_of("gralora_B", (count * rank, high))
    made = module.added(Grid((count * high, count * wide), count, down, up), shape)
    if not {"gralora_A_general", "gralora_B_general"} & module.parts.keys():
        return made
    left, right = module.matrix("gralora_B_general"), module.matrix("gralora_A_general")
    return (*made, *module.added(module.low_rank(left, right), shape))


def gralora_scale(module: Module) -> float:
    """The alpha over both ranks."""
    general = module.parts.get("gralora_A_general")
    alpha = 64.0 if module.config.alpha is None else module.config.alpha
    rank = module.rank + (general.info.shape[0] if general and general.info.shape else 0)
    return alpha / rank if rank else 1.0


def tiled(module: Module, shape: Shape) -> Changes:
    """A block r × outputs, or fewer that come again, below each other on and on; or one for each r outputs ("bat")."""
    part = next(part for part in ("miss_block", "bone_block") if part in module.parts)
    size, (rows, columns) = module.parts[part].info.shape, sides(shape)
    if len(size) == 3:
        return _bat(module, part, shape)
    tile = module.matrix(part)
    rank, high = tile.shape
    if rank > columns or rows % high:
        raise module.fail(f"the base's weight is of shape {list(shape)}, and the adapter's block of {list(size)}")
    module.hold(prod(tile.shape))
    return module.added(Tiled((rows, columns), Turned(tile)), shape)


def _bat(module: Module, part: str, shape: Shape) -> Changes:
    size, (rows, columns) = module.parts[part].info.shape, sides(shape)
    rank = size[2]
    if not prod(size) or size[1] != rank or size[0] * rank != rows or columns % rank:
        raise module.fail(f"the base's weight is of shape {list(shape)}, and the adapter's blocks of {list(size)}")
    if module.scale != 1:
        raise module.fail("blocks that multiply the weight take no scale", "--lora ADAPTER alone")
    module.hold(prod(size))
    blocks = module.factor_of(part, (rows, rank))

    def matrices() -> Array:
        import numpy as np

        made: Array = blocks.whole().reshape(1, -1, rank, rank) + np.eye(rank)
        return made

    tensors = tuple(module.parts.values())
    return Rotate(rank, matrices, tensors, high=rank), Add(Tiled((rows, columns), blocks), 1.0, tensors)


def c3a(module: Module, shape: Shape) -> Changes:
    """Circulant blocks, of which the kernels are outputs / b × inputs / b × b."""
    size, inputs = module.parts["c3a_kernel"].info.shape, sides(shape)[1]
    if len(size) != 3 or not prod(size):
        raise module.fail(f"c3a_kernel is of shape {list(size)}")
    module.hold(prod(size))
    vectors = module.factor_of("c3a_kernel", (size[0] * size[1], size[2]))
    delta = Circulant((size[0] * size[2], size[1] * size[2]), vectors)
    return module.added(delta, shape, scale=module.scale / max(inputs, 1))


def shira(module: Module, shape: Shape) -> Changes:
    """Numbers for single elements."""
    count = module.parts["shira_weight"].info.numel
    module.hold(2 * count)
    places = module.factor_of("shira_indices", (2, count))
    return module.added(Sparse(sides(shape), module.vector("shira_weight", count), places), shape)
