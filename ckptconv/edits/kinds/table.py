"""What an edit of each kind consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckptconv.errors import LIST_NAMES

if TYPE_CHECKING:
    from ckptconv.core.edit import Kind

Count = Literal["none", "one", "many"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What an edit of a kind consists of.

    sources, targets: how many names each step has on that side.
    details:          the keys that its details may have.
    hint:             what the kind requires, for errors.
    same_names:       if the edit gives no targets, they are its sources.
    sources_stay:     the sources stay as they are, and the targets come beside them.
    """

    sources: Count
    targets: Count
    details: tuple[str, ...] = ()
    hint: str = LIST_NAMES
    same_names: bool = False
    sources_stay: bool = False


KINDS: dict[Kind, Needs] = {
    "rename": Needs("one", "one", ("stack", "renumbered"),
                    "a longer pattern matches fewer names, and a drop before it makes room"),
    "transpose": Needs("one", "one", ("axes",),
                       "axes lists every dimension of the tensor once, as in [1, 0]", same_names=True),
    "permute": Needs("one", "one", ("axis", "shape", "axes"),
                     "shape divides the dimension axis, and axes lists the dimensions of shape once", same_names=True),
    "reshape": Needs("one", "one", ("shape", "from"),
                     "the sizes in shape have as many elements as the tensor", same_names=True),
    "cast": Needs("one", "one", ("dtype", "from"),
                  "dtype is the name of an element type, as BF16, for a GGUF also of a block type, as Q8_0",
                  same_names=True),
    "map": Needs("one", "one", ("function", "value"),
                 "function is add or multiply, with a value, or neg-exp or log-neg; blocks are cast to floats before "
                 "it", same_names=True),
    "dequantize": Needs("many", "one", ("scheme", "parts", "block", "bits", "group_size", "mode", "zeros", "axis",
                                        "inverse"),
                        "sources are the parts of a scheme in their order, or as parts lists them"),
    "remove-parametrization": Needs("many", "one", ("scheme", "axis"),
                                    "scheme is pruned (orig, mask), weight_norm (v, g) or spectral_norm (orig, u, v), "
                                    "and axis the dimension that has norms, or is the rows of the matrix"),
    "fold-batch-norm": Needs("many", "many", ("parts", "eps", "axis"),
                             "parts says which of weight, bias, gamma, beta, mean, var each source is; the targets are "
                             "the folded weight and bias"),
    "quantize": Needs("one", "many", ("scheme",),
                      "the source is a matrix of floats, the targets its codes and what the scheme has besides, as "
                      "scales"),
    "split": Needs("one", "many", ("axis", "sizes", "blocks"),
                   "axis counts dimensions from 0, sizes add up to it, and without sizes the parts are equal"),
    "concat": Needs("many", "one", ("axis", "sizes", "blocks"),
                    "axis counts dimensions from 0; element types, and sizes of the other dimensions, have to be "
                    "equal"),
    "stack": Needs("many", "one", ("axis",),
                   "axis counts the dimensions of the result from 0; element types and shapes have to be equal"),
    "unstack": Needs("one", "many", ("axis",),
                     "axis counts dimensions from 0, and as many targets as it has indices are listed, as in {0-7}"),
    "tie": Needs("one", "one", ("new",),
                 "the first name keeps its tensor, and the other has one of the same type and shape",
                 sources_stay=True),
    "untie": Needs("one", "one", (), "both names have to be there", sources_stay=True),
    "drop": Needs("one", "none"),
    "zeros": Needs("one", "one", (), "the target is a new name, and the source of a type that has a 0",
                   sources_stay=True),
    "remove-layers": Needs("one", "none", ("stack", "layers")),
    "insert-layers": Needs("none", "one", ("stack", "layers"),
                           "select what is to be kept from the checkpoint that has those layers"),
}  # fmt: skip
