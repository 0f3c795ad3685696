"""The changes that an adapter's tensors for one module make to the weight and bias of the base.

The shapes show the orientation of the weight. For a LoRA with factors r × inputs and outputs × r it is outputs × inputs
(× kernel), or inputs × outputs as in GPT-2's Conv1D and all embeddings. A square weight could be either: then
`Module.inputs_first` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.edits.adapters.deltas import Whole
from ckptconv.edits.adapters.factors import Factors
from ckptconv.edits.adapters.kinds import HIRA, KINDS, LORA, kind_of
from ckptconv.edits.adapters.matrices import Transposed
from ckptconv.edits.adapters.merged import Add, Decompose, is_mergeable_type, matrix_shape
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from ckptconv.edits.adapters.config import Config
    from ckptconv.edits.adapters.deltas import Delta, LowRank
    from ckptconv.edits.adapters.matrices import Left
    from ckptconv.edits.adapters.merged import Change

    Shape = tuple[int, ...]

_ADDED_TO_BIAS = ("up_bias", "diff_bias", "beft_bias")

_WHOLE_NUMBERS = ("alpha", "on_input", "shira_indices", "vblora_logits_A_topk_indices", "vblora_logits_B_topk_indices")
"""Parts whose tensors may be integers."""


@dataclass(frozen=True)
class Module(Factors):
    """One module of an adapter.

    scale:        what the user multiplies its change by.
    inputs_first: whether a square weight is taken as inputs × outputs.
    """

    config: Config
    scale: float = 1.0
    inputs_first: bool = False

    def check(self) -> str:
        """The module's kind.

        Raises EditError for a part that is missing, UnsupportedError for one that does not belong.
        """
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
        if unknown := self.parts.keys() - {*kind.marks, *kind.needs, *kind.takes, *kind.shared}:
            raise UnsupportedError(
                f"{self.name!r}: {min(unknown)} beside {found} is not known", hint="inspect shows them"
            )
        for part, tensor in self.parts.items():
            whole_number = part in _WHOLE_NUMBERS and tensor.info.dtype.kind in ("int", "uint")
            if not (whole_number or is_mergeable_type(tensor.info.dtype)):
                raise self.fail(f"{part} is {tensor.info.dtype}, and not of floats that are computed with")
        return found

    @property
    def factor_pair(self) -> tuple[str, ...]:
        """The two parts that are factors r × inputs and outputs × r, for kinds that have these; else ()."""
        return next((pair for pair in (LORA, HIRA) if self.parts.keys() >= set(pair)), ())

    def fits(self, shape: Shape) -> tuple[bool, bool]:
        """Whether the factor pair fits a weight of that shape as it is, and whether it fits transposed."""
        down, up = (self.parts[part].info.shape for part in self.factor_pair)
        inputs, outputs = prod(down[1:]), up[0] if up else 0
        if "mid" in self.parts:
            inputs *= prod(self.parts["mid"].info.shape[2:])
        plain = bool(shape) and (shape[0], prod(shape[1:])) == (outputs, inputs)
        return plain, len(shape) == 2 and shape == (inputs, outputs)

    def may_fit(self, shape: Shape) -> bool:
        """Whether the module may belong to a weight of that shape; True for kinds whose parts do not show it."""
        if kind_of(self.parts) == "lora_a":
            return mlx.fits(self, shape)
        return not self.factor_pair or any(self.fits(shape))

    def weight_changes(self, shape: Shape) -> tuple[Change, ...]:
        """What to change in the weight. Raises EditError, with the shapes, where the module does not fit."""
        kind = KINDS[self.check()]
        if self.scale != 1 and not kind.scaled:
            raise self.fail(f"{kind.name} multiplies or replaces, and takes no scale", "--lora ADAPTER alone")
        if kind.plain and self.config.fan_in_fan_out and len(shape) == 2:
            raise UnsupportedError(
                f"{self.name!r}: {kind.name} of weights that are inputs × outputs (fan_in_fan_out) is not merged",
                hint="peft runs it beside the base",
            )
        return kind.weight(self, shape) if kind.weight else ()

    def bias_changes(self, shape: Shape) -> tuple[Change, ...]:
        """What to change in the bias: nothing for most kinds."""
        kind = KINDS[kind_of(self.parts)]
        if part := next((part for part in _ADDED_TO_BIAS if part in self.parts), ""):
            scale = self.factor("down") if part == "up_bias" else self.scale
            values = Whole(self.factor_of(part, (shape[0], 1) if len(shape) == 1 else (0, 0)))
            return (Add(values, scale, (self.parts[part],)),)
        return kind.bias(self, shape) if kind.bias else ()

    @property
    def needs_bias(self) -> bool:
        """Whether the base must have a bias."""
        return any(part in self.parts for part in _ADDED_TO_BIAS)

    @property
    def needs_weight(self) -> bool:
        """Whether the weight is changed."""
        kind = KINDS.get(kind_of(self.parts))
        return kind is None or kind.weight is not None

    @property
    def rank(self) -> int:
        """The rank of its factors; 0 if it has none."""
        kind = KINDS.get(kind_of(self.parts))
        for part, axis in kind.ranks if kind else ():
            shape = self.parts[part].info.shape if part in self.parts else ()
            if -len(shape) <= axis < len(shape):
                return shape[axis]
        return 0

    def factor(self, kind: str) -> float:
        """What the product is multiplied by: alpha over rank, times what the user asked for."""
        scale = KINDS[kind].scale
        return (scale(self) if scale else 1.0) * self.scale

    def product(self, left: Left, right: Left) -> LowRank:
        """The product of outputs × r and r × inputs, transposed if the base's weights are inputs × outputs."""
        return self.low_rank(Transposed(right), Transposed(left)) if self.inputs_first else self.low_rank(left, right)

    def check_shape(self, found: tuple[int, int], shape: Shape) -> None:
        """Raise EditError if a change has another shape than the base's weight."""
        if found != matrix_shape(shape):
            raise self.misfit(shape, f"the adapter's of {list(found)}")

    def add_delta(
        self, delta: Delta, shape: Shape, *, along: int = 0, scale: float | None = None
    ) -> tuple[Change, ...]:
        """The changes that add `delta` to the weight and apply a DoRA's norms, if it has any, along a dimension."""
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
        count = matrix_shape(shape)[along] // spread
        return Decompose(self.vector("magnitude", count), along, spread, (tensor,))
