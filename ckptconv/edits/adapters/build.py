"""The changes that an adapter's tensors for one module make to the base's weight and bias.

Shapes say which way round a weight lies: of a LoRA with factors r × inputs and outputs × r, it is outputs × inputs (×
kernel), or inputs × outputs, as GPT-2's Conv1D and every embedding have it. Both may be true of a square one; then
`Known.turned` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.edits.adapters.deltas import Cored, Hadamard, Kronecker, LowRank, Whole
from ckptconv.edits.adapters.factors import Factors
from ckptconv.edits.adapters.merged import Add, Decompose, Multiply, Replace, is_computed_with
from ckptconv.edits.adapters.names import plain_module
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.edits.adapters.config import Config
    from ckptconv.edits.adapters.deltas import Delta
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]

KINDS = {
    "down": "LoRA", "embedding_down": "LoRA of an embedding", "hada_w1_a": "LoHa", "lokr_w1": "LoKr",
    "lokr_w1_a": "LoKr", "ia3": "IA3", "diff": "full difference", "diff_bias": "full difference",
    "tokens": "trainable tokens", "lora_a": "LoRA",
}  # fmt: skip
"""What a module's change is called, by the first of its parts."""

_DECOMPOSED = {"down": "lora_magnitude_vector", "embedding_down": "lora_magnitude_vector", "lora_a": "m"}
"""What a DoRA calls its norms."""

LORA = ("down", "up")
EMBEDDING = ("embedding_down", "embedding_up")
_TAKEN = {
    "down": {"up", "mid", "alpha", "magnitude", "up_bias", "diff_bias"},
    "embedding_down": {"embedding_up", "magnitude"},
    "hada_w1_a": {"hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha", "magnitude", "diff_bias"},
    "lokr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha", "magnitude",
             "diff_bias"},
    "ia3": set(), "diff": {"diff_bias", "alpha"}, "diff_bias": set(), "tokens": set(),
    "lora_a": {"lora_b", "magnitude"},
}  # fmt: skip


def kind_of(parts: Mapping[str, object]) -> str:
    """The part by which a module's change is known; "" for none. It stands in `KINDS`."""
    return next((part for part in KINDS if part in parts), "")


@dataclass(frozen=True)
class Module(Factors):
    """A module of an adapter.

    scale: what the user asked for.
    turned: what a square weight is taken for: inputs × outputs.
    """

    config: Config
    scale: float = 1.0
    turned: bool = False

    def check(self) -> str:
        """Its kind. Raises EditError where a part is missing, UnsupportedError where one does not belong to it."""
        kind = kind_of(self.parts)
        if not kind:
            raise self.fail(f"there is {' and '.join(self.parts)} alone")
        needed = {"down": LORA, "embedding_down": EMBEDDING, "hada_w1_a": _HADA, "lora_a": mlx.PARTS}.get(kind, ())
        if lost := [part for part in needed if part not in self.parts]:
            raise self.fail(f"{lost[0]} is missing beside {kind}")
        if self.config.dora and kind in _DECOMPOSED and "magnitude" not in self.parts:
            raise self.fail(f"{_DECOMPOSED[kind]} is missing, and the configuration says that it is a DoRA")
        family = "lokr" if kind.startswith("lokr") else kind
        if left := self.parts.keys() - {kind, family} - _TAKEN[family]:
            raise UnsupportedError(f"{self.name!r}: {min(left)} beside {kind} is not known", hint="inspect shows them")
        for part, tensor in self.parts.items():
            whole_number = part == "alpha" and tensor.info.dtype.kind in ("int", "uint")
            if not (whole_number or is_computed_with(tensor.info.dtype)):
                raise self.fail(f"{part} is {tensor.info.dtype}, and not of floats that are computed with")
        return kind

    def fits(self, shape: Shape) -> tuple[bool, bool]:
        """Whether a LoRA goes with a weight of that shape as it is, and turned."""
        down, up = self.parts["down"].info.shape, self.parts["up"].info.shape
        inputs, outputs = prod(down[1:]), up[0] if up else 0
        if "mid" in self.parts:
            inputs *= prod(self.parts["mid"].info.shape[2:])
        plain = bool(shape) and (shape[0], prod(shape[1:])) == (outputs, inputs)
        return plain, len(shape) == 2 and shape == (inputs, outputs)

    def fits_loosely(self, shape: Shape) -> bool:
        """Whether it may belong to a weight of that shape; true of kinds whose parts do not tell."""
        if kind_of(self.parts) == "lora_a":
            return mlx.fits(self, shape)
        return kind_of(self.parts) != "down" or "up" not in self.parts or any(self.fits(shape))

    def of_weight(self, shape: Shape) -> tuple[Change, ...]:
        """What becomes of the weight. Raises EditError, with shapes, where it does not fit."""
        kind = self.check()
        size = (shape[0], prod(shape[1:])) if shape else (1, 1)
        delta: Delta
        along = 0
        match kind:
            case "ia3":
                return (self._ia3(shape, size),)
            case "tokens":
                return (self._tokens(size),)
            case "diff_bias":
                return ()
            case "embedding_down":
                delta, along = self._embedding(size), 1
            case "down":
                delta, along = self._lora(shape, size)
            case "lora_a":
                delta = mlx.product(self, shape)
            case "hada_w1_a":
                delta = self._loha()
            case "diff":
                delta = Whole(self.factor_of("diff", size))
            case _:
                delta = self._lokr()
        if delta.shape != size:
            raise self.fail(f"the base's weight is of shape {list(shape)}, and the adapter's of {list(delta.shape)}")
        changes: list[Change] = [Add(delta, self.factor(kind), tuple(self.parts.values()))]
        if "magnitude" in self.parts:
            changes.append(self._decompose(shape, size, along))
        return tuple(changes)

    def of_bias(self, shape: Shape) -> tuple[Change, ...]:
        """What becomes of the bias."""
        size = (shape[0], 1) if len(shape) == 1 else (0, 0)
        if "up_bias" in self.parts or "diff_bias" in self.parts:
            part = "up_bias" if "up_bias" in self.parts else "diff_bias"
            scale = self.factor("down") if part == "up_bias" else self.scale
            return (Add(Whole(self.factor_of(part, size)), scale, (self.parts[part],)),)
        return (Multiply(self.factor_of("ia3", size), 0, 1, (self.parts["ia3"],)),)

    @property
    def changes_bias(self) -> bool:
        """Whether the bias is changed too, where there is one."""
        return self.needs_bias or ("ia3" in self.parts and not self.config.feeds_forward(plain_module(self.name)))

    @property
    def needs_bias(self) -> bool:
        """Whether there has to be a bias."""
        return "up_bias" in self.parts or "diff_bias" in self.parts

    @property
    def needs_weight(self) -> bool:
        """Whether the weight is changed."""
        return kind_of(self.parts) != "diff_bias"

    @property
    def rank(self) -> int:
        """Of its factors; 0 where they have none."""
        for part, axis in (
            ("down", 0), ("embedding_down", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0), ("lokr_t2", 0),
            ("lora_a", 1),
        ):  # fmt: skip
            if part in self.parts and len(self.parts[part].info.shape) > axis:
                return self.parts[part].info.shape[axis]
        return 0

    def factor(self, kind: str) -> float:
        """By what the product is multiplied: alpha over rank, times what the user asked for."""
        if kind in ("diff", "diff_bias"):
            return self.scale
        if "alpha" not in self.parts:
            return self.config.scale(plain_module(self.name), self.rank) * self.scale
        return (self.alpha() / self.rank if self.rank else 1.0) * self.scale

    def alpha(self) -> float:
        """The number in the tensor; read."""
        tensor = self.parts["alpha"]
        if tensor.info.numel != 1:
            raise self.fail(f"alpha has {tensor.info.numel:,} elements, and not one")
        value = float(tensor.numpy().reshape(-1)[0])
        if not isfinite(value):
            raise self.fail(f"alpha is {value}")
        return value

    def _lora(self, shape: Shape, size: tuple[int, int]) -> tuple[LowRank, int]:
        """The product, and along which dimension a DoRA has norms."""
        plain, turned = self.fits(shape)
        down, up = self.matrix("down"), self.matrix("up")
        if turned and (self.turned or not plain):
            return self.low_rank(self.transposed("down"), self.transposed("up")), 1
        if not plain:
            inputs = down.shape[1] * (prod(self.parts["mid"].info.shape[2:]) if "mid" in self.parts else 1)
            raise self.fail(
                f"the base's weight is of shape {list(shape)}, and the adapter is for [{up.shape[0]}, {inputs}]"
            )
        if "mid" not in self.parts:
            return self.low_rank(up, down), 0
        return self.low_rank(up, self._cored("mid", "down")), 0

    def _embedding(self, size: tuple[int, int]) -> LowRank:
        return self.low_rank(self.transposed("embedding_down"), self.transposed("embedding_up"))

    def _loha(self) -> Hadamard:
        pairs = []
        for number in "12":
            left, right, core = f"hada_w{number}_a", f"hada_w{number}_b", f"hada_t{number}"
            if core in self.parts:
                pairs.append(self.low_rank(self.transposed(left), self._cored(core, right)))
            else:
                pairs.append(self.low_rank(self.matrix(left), self.matrix(right)))
        if pairs[0].shape != pairs[1].shape:
            raise self.fail(f"its two products are of shapes {list(pairs[0].shape)} and {list(pairs[1].shape)}")
        return Hadamard(*pairs)

    def _cored(self, core: str, inner: str) -> Cored:
        shape, factor = self.parts[core].info.shape, self.matrix(inner)
        if len(shape) < 3 or shape[1] != factor.shape[0]:
            raise self.fail(f"{core} is of shape {list(shape)}, and {inner} of {list(factor.shape)}")
        self.hold(prod(shape))
        self.hold(prod(factor.shape))
        return Cored(self.matrix(core), factor)

    def _lokr(self) -> Kronecker:
        sides = self._side("lokr_w1"), self._side("lokr_w2")
        for side in sides:
            self.hold(prod(side.shape))
            if isinstance(side, LowRank):
                self.hold(prod(side.left.shape))
        return Kronecker(*sides)

    def _side(self, part: str) -> Whole | LowRank:
        if part in self.parts:
            return Whole(self.matrix(part))
        left, right = f"{part}_a", f"{part}_b"
        if left not in self.parts or right not in self.parts:
            raise self.fail(f"{part} is missing")
        if part == "lokr_w2" and "lokr_t2" in self.parts:
            return self.low_rank(self.transposed(left), self._cored("lokr_t2", right))
        return self.low_rank(self.matrix(left), self.matrix(right))

    def _decompose(self, shape: Shape, size: tuple[int, int], along: int) -> Decompose:
        tensor = self.parts["magnitude"]
        kernel = prod(shape[2:])
        # LyCORIS has norms of outputs, [outputs, 1, …], or of inputs, [1, inputs, …]; PEFT always of outputs
        of_inputs = along == 0 and self.config.peft == "" and tensor.info.shape[:1] == (1,) != shape[:1]
        along = 1 if of_inputs else along
        spread = kernel if of_inputs else 1
        count = size[along] // spread
        self.hold(count)
        return Decompose(self.factor_of("magnitude", (count, 1)), along, spread, (tensor,))

    def _ia3(self, shape: Shape, size: tuple[int, int]) -> Multiply:
        if self.scale != 1:
            raise self.fail("IA3 multiplies the weight, and takes no scale", "--lora ADAPTER alone")
        tensor = self.parts["ia3"]
        inputs = self.config.feeds_forward(plain_module(self.name))
        kernel = prod(shape[2:])
        along = 1 if inputs else 0
        if len(shape) == 2 and self.turned:
            along = 1 - along
        spread = kernel if along == 1 else 1
        if tensor.info.numel != size[along] // spread:
            raise self.fail(
                f"the base's weight is of shape {list(shape)}, and the adapter has {tensor.info.numel:,} numbers for "
                f"its {'inputs' if inputs else 'outputs'}"
            )
        self.hold(tensor.info.numel)
        return Multiply(self.factor_of("ia3", (tensor.info.numel, 1)), along, spread, (tensor,))

    def _tokens(self, size: tuple[int, int]) -> Replace:
        if self.scale != 1:
            raise self.fail("trainable tokens take the place of others, and take no scale", "--lora ADAPTER alone")
        tokens = self.config.tokens
        places = next((rows for name, rows in tokens.items() if not name or f".{self.name}".endswith(f".{name}")), None)
        if places is None:
            raise self.fail("the configuration does not say which tokens were trained")
        if places and max(places) >= size[0]:
            raise self.fail(f"token {max(places):,} is past the base's {size[0]:,} rows")
        numbers = {place: number for number, place in enumerate(places)}  # the last of one that comes twice
        return Replace(numbers, self.factor_of("tokens", (len(places), size[1])), (self.parts["tokens"],))


_HADA: Sequence[str] = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
