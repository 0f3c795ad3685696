"""Kinds of adapters that multiply a module's weight, or replace a part of it.

    IA3    each row or column times a number              HiRA      W + W ∘ B·A
    OFT    columns rotated in blocks                      BOFT      the same in stages, and rows times numbers
    HRA    W times reflections                            GLoRA     W + scale · (W·a1·a2 + b1·b2)
    RoAd   pairs of outputs rotated, and the bias too     OFT, BOFT of kohya and LyCORIS: rows rotated in blocks

Besides rotations, LyCORIS (`rescale`) and peft (`boft_s`) have a number for each output.

Sources: peft's tuners/*/layer.py (`get_delta_weight` and `merge` of each); LyCORIS' modules; kohya-ss/sd-scripts,
networks/oft.py.
"""

from __future__ import annotations

from functools import partial
from math import isqrt, prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import orthogonal
from ckptconv.edits.adapters.merged import TILE, Multiply, Replace, matrix_shape
from ckptconv.edits.adapters.names import plain_module
from ckptconv.edits.adapters.rotations import Rotate, Through, Weigh
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from ckptconv.core.arrays import Array
    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.deltas import LowRank
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]
    Changes = tuple[Change, ...]

_FIRST_SERIES = (0, 18)
"""The version of peft since which OFT's series ends as it does now."""

_MOST_TERMS = 100


def ia3(module: Module, shape: Shape) -> Changes:
    """A number for each output, or for each input of a feed-forward layer."""
    return (_multiply(module, "ia3", shape, inputs=module.config.feeds_forward(plain_module(module.name))),)


def ia3_of_bias(module: Module, shape: Shape) -> Changes:
    """The outputs' numbers multiply the bias, too."""
    if module.config.feeds_forward(plain_module(module.name)):
        return ()
    return (Multiply(module.vector("ia3", shape[0] if len(shape) == 1 else 0), tensors=(module.parts["ia3"],)),)


def lycoris_ia3(module: Module, shape: Shape) -> Changes:
    """LyCORIS' IA3: the stored numbers are added to 1, and the bias is left alone."""
    return (_multiply(module, "ia3_weight", shape, inputs=module.number("on_input") != 0, plus=1.0),)


def _multiply(module: Module, part: str, shape: Shape, *, inputs: bool, plus: float = 0.0) -> Multiply:
    tensor, size, kernel = module.parts[part], matrix_shape(shape), prod(shape[2:])
    along = 1 if inputs else 0
    if len(shape) == 2 and module.inputs_first:
        along = 1 - along
    spread = kernel if along == 1 else 1
    if tensor.info.numel * spread != size[along]:
        raise module.misfit(
            shape, f"the adapter has {tensor.info.numel:,} numbers for its {'inputs' if inputs else 'outputs'}"
        )
    return Multiply(
        module.vector(part, tensor.info.numel), along, spread, (tensor,), plus, module.scale if plus else 1.0
    )


def tokens(module: Module, shape: Shape) -> Changes:
    """Some rows of an embedding replace the base's."""
    known, size = module.config.tokens, matrix_shape(shape)
    places = next((rows for name, rows in known.items() if not name or f".{module.name}".endswith(f".{name}")), None)
    if places is None:
        raise module.fail("the configuration does not say which tokens were trained")
    if places and max(places) >= size[0]:
        raise module.fail(f"token {max(places):,} is past the base's {size[0]:,} rows")
    row_of = {place: row for row, place in enumerate(places)}  # of a token that comes twice, the last row counts
    return (Replace(row_of, module.factor_of("tokens", (len(places), size[1])), (module.parts["tokens"],)),)


def hira(module: Module, shape: Shape) -> Changes:
    """The weight times 1 + a LoRA, element by element."""
    return _hira(module, module.product(module.matrix("hira_B"), module.matrix("hira_A")), shape)


def hira_of_embedding(module: Module, shape: Shape) -> Changes:
    """The same for an embedding, which is inputs × outputs."""
    left, right = module.transposed("hira_embedding_A"), module.transposed("hira_embedding_B")
    return _hira(module, module.low_rank(left, right), shape)


def _hira(module: Module, delta: LowRank, shape: Shape) -> Changes:
    module.check_shape(delta.shape, shape)
    return (Weigh(delta, module.scale, tuple(module.parts.values())),)


def oft(module: Module, shape: Shape) -> Changes:
    """Rotations of blocks of inputs; for an embedding, of its outputs."""
    part = "oft_R" if "oft_R" in module.parts else "oft_embedding_R"
    stored, width = module.parts[part].info.shape, matrix_shape(shape)[1]
    if len(stored) != 2:
        raise module.fail(f"{part} is of shape {list(stored)}")
    count, numbers = stored
    size = (1 + isqrt(1 + 8 * numbers)) // 2
    if size * (size - 1) // 2 != numbers or not count or (count * size != width and (count > 1 or width % size)):
        raise module.misfit(shape, f"{part} of {list(stored)}")
    if size == 1:
        return ()
    terms = _series_terms(module)
    _check_blocks(module, count, size)
    upper, longest = module.factor_of(part, (count, numbers)), module.config.real("eps", 6e-5)
    short, sign = module.config.flag("coft"), 1 if part == "oft_R" else -1

    def matrices() -> Array:
        skew = orthogonal.skew_of_upper(upper.whole(), size)
        skew = sign * (orthogonal.shortened(skew, longest) if short else skew)
        result: Array = orthogonal.series(-skew, terms) if terms else orthogonal.cayley(skew)
        return result[None]

    return (Rotate(size, matrices, (module.parts[part],)),)


def _series_terms(module: Module) -> int:
    """The number of terms of the series that computes the rotations; 0 if they are computed exactly."""
    config = module.config
    if not config.flag("use_cayley_neumann", otherwise=True):
        return 0
    if config.version("peft_version") < _FIRST_SERIES:
        raise UnsupportedError(
            "the adapter is an OFT by a series of before peft 0.18, which ended otherwise: that is not merged",
            hint="merge_and_unload() of peft 0.17 merges it",
        )
    terms = config.count("num_cayley_neumann_terms", 5)
    if not 1 <= terms <= _MOST_TERMS:
        raise module.fail(f"the configuration says {terms:,} terms", "num_cayley_neumann_terms is 5 as a rule")
    return terms


def _check_blocks(module: Module, count: int, size: int) -> None:
    module.check_held(count * size * size)
    module.check_work(count * size**3)


def boft(module: Module, shape: Shape) -> Changes:
    """Rotations one after another, of halves of blocks that are further and further apart; and a number per output."""
    stored, (rows, width) = module.parts["boft_R"].info.shape, matrix_shape(shape)
    stages, count, size, _ = stored if len(stored) == 4 else (0, 0, 0, 0)
    wide = size << max(stages - 1, 0)
    if (
        not stages
        or stored[3] != size
        or count * size != width
        or not width
        or width % wide
        or (stages > 1 and size % 2)
    ):
        raise module.misfit(shape, f"boft_R of {list(stored)}")
    _check_blocks(module, stages * count, size)
    blocks = module.factor_of("boft_R", (stages * count * size, size))

    def matrices() -> Array:
        data = blocks.whole().reshape(stored)
        return orthogonal.cayley(0.5 * (data - data.transpose(0, 1, 3, 2)))

    order = partial(orthogonal.butterfly, size=size, run=size // 2) if stages > 1 else None
    turn = Rotate(size, matrices, (module.parts["boft_R"],), order=order)
    return turn, Multiply(module.vector("boft_s", rows), tensors=(module.parts["boft_s"],))


def oft_of_outputs(module: Module, shape: Shape) -> Changes:
    """Rotations of blocks of outputs: n × b × b, or in stages, stages × n × b × b.

    alpha: the largest norm of all blocks together, per row.
    """
    stored, (rows, width) = module.parts["oft_blocks"].info.shape, matrix_shape(shape)
    stages, count, size, _ = stored if len(stored) == 4 else (1, *stored) if len(stored) == 3 else (0, 0, 0, 0)
    butterfly = len(stored) == 4
    wide = (size << max(stages - 1, 0)) if butterfly else size
    if not rows or not size or stored[-1] != size or count * size != rows or rows % wide or (butterfly and size % 2):
        raise module.misfit(shape, f"oft_blocks of {list(stored)}")
    _check_blocks(module, stages * count, size)
    module.check_held((rows if butterfly else size) * min(width, TILE))
    blocks = module.factor_of("oft_blocks", (stages * count * size, size))
    longest = module.number("alpha") * rows if "alpha" in module.parts else 0.0

    def matrices() -> Array:
        data = blocks.whole().reshape(stages, count, size, size)
        skew = orthogonal.constrained(data - data.transpose(0, 1, 3, 2), longest)
        return orthogonal.cayley(-skew if butterfly else skew)

    order = partial(orthogonal.butterfly, size=size, run=1) if butterfly else None
    result: Changes = (Rotate(size, matrices, tuple(module.parts.values()), along=0, order=order),)
    if "rescale" in module.parts:
        result += (Multiply(module.vector("rescale", rows), tensors=(module.parts["rescale"],)),)
    return result


def hra(module: Module, shape: Shape) -> Changes:
    """The weight times one reflection for each rank."""
    vectors, width = module.matrix("hra_u"), matrix_shape(shape)[1]
    count, rank = vectors.shape
    if count != width or rank > count:
        raise module.misfit(shape, f"hra_u of {[count, rank]}")
    module.check_work(rank * rank * count)
    orthonormal = module.config.flag("apply_GS")

    def factors(side: int) -> Array:
        return orthogonal.householder(vectors.whole(), orthogonal=orthonormal)[side]

    left = module.computed((count, rank), partial(factors, 0))
    right = module.computed((rank, count), partial(factors, 1))
    return (Through(left, right, 1.0, tensors=(module.parts["hra_u"],)),)


def glora(module: Module, shape: Shape) -> Changes:
    """A LoRA, and one that the weight is multiplied by."""
    left, right = module.matrix("a1"), module.matrix("a2")
    kernel = prod(shape[2:])
    inputs = matrix_shape(shape)[1] // max(kernel, 1)
    if left.shape[1] != right.shape[0] or (left.shape[0], right.shape[1]) != (inputs, inputs):
        raise module.misfit(shape, f"a1 and a2 of {list(left.shape)} and {list(right.shape)}")
    module.check_held(prod(left.shape))
    module.check_held(prod(right.shape))
    through = Through(left, right, module.factor("a1"), kernel, tuple(module.parts.values()))
    return through, *module.add_delta(module.low_rank(module.matrix("b1"), module.matrix("b2")), shape)


def road(module: Module, shape: Shape) -> Changes:
    """Pairs of outputs rotated."""
    rows, width = matrix_shape(shape)
    size, variant = module.config.count("group_size", 64), module.config.word("variant", "road_1")
    count = {"road_1": 1, "road_2": 2, "road_4": 4}.get(variant, 0)
    if not count or not size or size % 2 or rows % size or not rows:
        raise module.misfit(shape, f"the adapter of {variant!r} and groups of {size:,}")
    theta, alpha = (module.vector(part, rows * count // 2) for part in ("road_theta", "road_alpha"))
    module.check_held(rows * size)
    module.check_held(size * min(width, TILE))

    def matrices() -> Array:
        return orthogonal.pairs(theta.whole(), alpha.whole(), size, count)[None]

    return (Rotate(size, matrices, tuple(module.parts.values()), along=0),)
