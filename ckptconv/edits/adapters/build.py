"""The changes that an adapter's tensors for one module make to the base's weight and bias.

Shapes say which way round a weight lies: of a LoRA with factors r × inputs and outputs × r, it is outputs × inputs (×
kernel), or inputs × outputs, as GPT-2's Conv1D and every embedding have it. Both may be true of a square one; then
`Module.turned` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.edits.adapters.deltas import Whole
from ckptconv.edits.adapters.factors import Factors
from ckptconv.edits.adapters.kinds import HIRA, KINDS, LORA, kind_of
from ckptconv.edits.adapters.matrices import Turned
from ckptconv.edits.adapters.merged import Add, Decompose, is_computed_with, sides
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from ckptconv.edits.adapters.config import Config
    from ckptconv.edits.adapters.deltas import Delta, LowRank
    from ckptconv.edits.adapters.matrices import Left
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]

_ADDED_TO_BIAS = ("up_bias", "diff_bias", "beft_bias")

_WHOLE_NUMBERS = ("alpha", "on_input", "shira_indices", "vblora_logits_A_topk_indices", "vblora_logits_B_topk_indices")
"""Parts that may be of integers."""


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
        found = kind_of(self.parts)
        if not found:
            raise self.fail(f"there is {' and '.join(self.parts)} alone")
        kind = KINDS[found]
        if self.config.peft and kind.peft and self.config.peft not in kind.peft:
            raise self.fail(f"it is of {kind.name}, and the configuration says {self.config.peft}")
        if lost := [part for part in kind.needs if part not in self.parts]:
            raise self.fail(f"{lost[0]} is missing beside {found}")
        if lost := [part for part in kind.shared if part not in self.parts]:
            raise UnsupportedError(
                f"{lost[0]}, which all modules share, is not in the file: torch's random generator makes it anew, and "
                f"such adapters of {kind.name} are not merged", hint="peft keeps it with save_projection=True",
            )  # fmt: skip
        if self.config.dora and kind.magnitude and "magnitude" not in self.parts:
            raise self.fail(f"{kind.magnitude} is missing, and the configuration says that it is a DoRA")
        if left := self.parts.keys() - {*kind.marks, *kind.needs, *kind.takes, *kind.shared}:
            raise UnsupportedError(f"{self.name!r}: {min(left)} beside {found} is not known", hint="inspect shows them")
        for part, tensor in self.parts.items():
            whole_number = part in _WHOLE_NUMBERS and tensor.info.dtype.kind in ("int", "uint")
            if not (whole_number or is_computed_with(tensor.info.dtype)):
                raise self.fail(f"{part} is {tensor.info.dtype}, and not of floats that are computed with")
        return found

    @property
    def pair(self) -> tuple[str, ...]:
        """The parts that are factors r × inputs and outputs × r, of kinds that do not say otherwise how these lie."""
        return next((pair for pair in (LORA, HIRA) if self.parts.keys() >= set(pair)), ())

    def fits(self, shape: Shape) -> tuple[bool, bool]:
        """Whether a pair goes with a weight of that shape as it is, and turned."""
        down, up = (self.parts[part].info.shape for part in self.pair)
        inputs, outputs = prod(down[1:]), up[0] if up else 0
        if "mid" in self.parts:
            inputs *= prod(self.parts["mid"].info.shape[2:])
        plain = bool(shape) and (shape[0], prod(shape[1:])) == (outputs, inputs)
        return plain, len(shape) == 2 and shape == (inputs, outputs)

    def fits_loosely(self, shape: Shape) -> bool:
        """Whether it may belong to a weight of that shape; true of kinds whose parts do not tell."""
        if kind_of(self.parts) == "lora_a":
            return mlx.fits(self, shape)
        return not self.pair or any(self.fits(shape))

    def of_weight(self, shape: Shape) -> tuple[Change, ...]:
        """What becomes of the weight. Raises EditError, with shapes, where it does not fit."""
        kind = KINDS[self.check()]
        if self.scale != 1 and not kind.scaled:
            raise self.fail(f"{kind.name} multiplies or replaces, and takes no scale", "--lora ADAPTER alone")
        if kind.plain and self.config.turned and len(shape) == 2:
            raise UnsupportedError(
                f"{self.name!r}: {kind.name} of weights that are inputs × outputs (fan_in_fan_out) is not merged",
                hint="peft runs it beside the base",
            )
        return kind.weight(self, shape) if kind.weight else ()

    def of_bias(self, shape: Shape) -> tuple[Change, ...]:
        """What becomes of the bias; nothing for most kinds."""
        kind = KINDS[kind_of(self.parts)]
        if part := next((part for part in _ADDED_TO_BIAS if part in self.parts), ""):
            scale = self.factor("down") if part == "up_bias" else self.scale
            values = Whole(self.factor_of(part, (shape[0], 1) if len(shape) == 1 else (0, 0)))
            return (Add(values, scale, (self.parts[part],)),)
        return kind.bias(self, shape) if kind.bias else ()

    @property
    def needs_bias(self) -> bool:
        """Whether there has to be a bias."""
        return any(part in self.parts for part in _ADDED_TO_BIAS)

    @property
    def needs_weight(self) -> bool:
        """Whether the weight is changed."""
        kind = KINDS.get(kind_of(self.parts))
        return kind is None or kind.weight is not None

    @property
    def rank(self) -> int:
        """Of its factors; 0 where they have none."""
        kind = KINDS.get(kind_of(self.parts))
        for part, axis in kind.ranks if kind else ():
            shape = self.parts[part].info.shape if part in self.parts else ()
            if -len(shape) <= axis < len(shape):
                return shape[axis]
        return 0

    def factor(self, kind: str) -> float:
        """By what the product is multiplied: alpha over rank, times what the user asked for."""
        scale = KINDS[kind].scale
        return (scale(self) if scale else 1.0) * self.scale

    def product(self, left: Left, right: Left) -> LowRank:
        """Of outputs × r and r × inputs; what it is in a base whose weights are inputs × outputs."""
        return self.low_rank(Turned(right), Turned(left)) if self.turned else self.low_rank(left, right)

    def check_shape(self, found: tuple[int, int], shape: Shape) -> None:
        """Raise EditError where what it gives is of another shape than the base's weight."""
        if found != sides(shape):
            raise self.misfit(shape, f"the adapter's of {list(found)}")

    def added(self, delta: Delta, shape: Shape, *, along: int = 0, scale: float | None = None) -> tuple[Change, ...]:
        """The weight and what is added to it, and a DoRA's norms where it has them; these along a dimension."""
        self.check_shape(delta.shape, shape)
        factor = self.factor(kind_of(self.parts)) if scale is None else scale
        changes: list[Change] = [Add(delta, factor, tuple(self.parts.values()))]
        if "magnitude" in self.parts:
            changes.append(self._decompose(shape, along))
        return tuple(changes)

    def _decompose(self, shape: Shape, along: int) -> Decompose:
        tensor = self.parts["magnitude"]
        kernel = prod(shape[2:])
        # LyCORIS has norms of outputs, [outputs, 1, …], or of inputs, [1, inputs, …]; PEFT always of outputs
        of_inputs = along == 0 and self.config.peft == "" and tensor.info.shape[:1] == (1,) != shape[:1]
        along = 1 if of_inputs else along
        spread = kernel if of_inputs else 1
        count = sides(shape)[along] // spread
        return Decompose(self.vector("magnitude", count), along, spread, (tensor,))
