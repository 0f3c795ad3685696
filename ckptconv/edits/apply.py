"""Making the changes that edits describe: lazily, and without reading a tensor.

`apply` takes the tensors by name and gives new ones, in the old order; a name that a step makes of another stands where
that stood. Every step is done or refused: a name that is missing, a name that would be there twice, or a pattern that
nothing matches is an error that lists the names.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.tensor import LazyTensor
from ckptconv.edits.cast import cast_tensor
from ckptconv.edits.expand import listed, steps_of
from ckptconv.edits.functions import Function, mapped
from ckptconv.edits.joined import joined
from ckptconv.edits.quantize import unfit
from ckptconv.edits.quantized.schemes import dequantized
from ckptconv.edits.quantizers.schemes import SCHEMES, coded
from ckptconv.edits.through import cut, turned
from ckptconv.edits.views import Zeros, reshaped
from ckptconv.errors import LIST_NAMES, EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.core.edit import Edit, Kind, Step

    Tensors = dict[str, LazyTensor]

ARITY: dict[Kind, tuple[str, str]] = {
    "rename": ("one", "one"), "transpose": ("one", "one"), "permute": ("one", "one"), "reshape": ("one", "one"),
    "cast": ("one", "one"), "map": ("one", "one"), "dequantize": ("many", "one"),
    "quantize": ("one", "many"), "split": ("one", "many"),
    "concat": ("many", "one"), "stack": ("many", "one"), "unstack": ("one", "many"), "tie": ("one", "one"),
    "untie": ("one", "one"), "drop": ("one", "none"), "zeros": ("one", "one"), "remove-layers": ("one", "none"),
    "insert-layers": ("none", "one"),
}  # fmt: skip
"""How many names each step of a kind has on its two sides."""

_BESIDE: tuple[Kind, ...] = ("tie", "untie", "zeros")
"""Kinds whose sources stay, and whose targets stand beside them."""


_TAKES: dict[Kind, str] = {
    "rename": "a longer pattern matches fewer names, and a drop before it makes room",
    "transpose": "axes lists every dimension of the tensor once, as in [1, 0]",
    "permute": "shape divides the dimension axis, and axes lists the dimensions of shape once",
    "reshape": "the sizes in shape have as many elements as the tensor",
    "cast": "dtype is the name of an element type, as BF16, for a GGUF also of a block type, as Q8_0",
    "map": "function is add or multiply, with a value, or neg-exp or log-neg; blocks are cast to floats before it",
    "dequantize": "sources are the parts of a scheme in their order, or as parts lists them",
    "quantize": "the source is a matrix of floats, the targets its codes and what the scheme has besides, as scales",
    "split": "axis counts dimensions from 0, sizes add up to it, and without sizes the parts are equal",
    "concat": "axis counts dimensions from 0; element types, and sizes of the other dimensions, have to be equal",
    "stack": "axis counts the dimensions of the result from 0; element types and shapes have to be equal",
    "unstack": "axis counts dimensions from 0, and as many targets as it has indices are listed, as in {0-7}",
    "tie": "the first name keeps its tensor, and the other has one of the same type and shape",
    "untie": "both names have to be there",
    "zeros": "the target is a new name, and the source of a type that has a 0",
    "insert-layers": "select what is to be kept from the checkpoint that has those layers",
}
"""What an edit of each kind needs, for errors."""


def apply(tensors: Mapping[str, LazyTensor], edits: Sequence[Edit]) -> Tensors:
    """The tensors after all edits, one after another. Raises EditError, UnsupportedError."""
    made = dict(tensors)
    for number, edit in enumerate(edits, 1):
        made, _ = apply_edit(made, edit, label(edit, number))
    return made


def label(edit: Edit, number: int) -> str:
    """What errors call the `number`-th edit."""
    return f"edit {number}, {edit.kind} {' + '.join(edit.sources or edit.targets)!r}"


def apply_edit(tensors: Tensors, edit: Edit, label: str) -> tuple[Tensors, tuple[Step, ...]]:
    """The tensors after one edit, and the steps that it took; `label` is what errors call it."""
    one = _Application(tensors, edit, label)
    if edit.kind == "insert-layers":
        raise one.fail("the values of layers that are inserted are not in a list of edits", edit.targets)
    steps = steps_of(edit, list(tensors), label)
    return one.run(steps), steps


def cast_to(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """The tensor as another element type; itself where it has that one. Tied tensors stay tied."""
    if tensor.info.dtype is dtype:
        return tensor
    alias = None if tensor.alias is None else ("cast", tensor.alias, dtype.name)
    return replace(cast_tensor(tensor, dtype), alias=alias)


@dataclass
class _Application:
    tensors: Tensors
    edit: Edit
    label: str

    def fail(self, problem: str, names: Iterable[str] = (), hint: str | None = None) -> EditError:
        hint = hint or _TAKES.get(self.edit.kind, LIST_NAMES)
        return EditError(f"{self.label}: {problem}", hint=hint, details=listed(names))

    def run(self, steps: Sequence[Step]) -> Tensors:
        edit = self.edit
        self.check(steps)
        made: dict[str, Tensors] = {}
        gone: set[str] = set()
        for step in steps:
            place = step.sources[0]
            if edit.kind in _BESIDE:
                gone |= set(step.targets)  # replaced where it stands, or put behind what it shares
                place = step.targets[0] if step.targets[0] in self.tensors else place
            else:
                gone |= set(step.sources)
            made.setdefault(place, {}).update(self.step(step))
        return self.merged(made, gone)

    def check(self, steps: Sequence[Step]) -> None:
        """Refuse names that are missing, used twice, or would be there twice."""
        for step in steps:
            self.check_counts(step)
        missing = dict.fromkeys(name for step in steps for name in step.sources if name not in self.tensors)
        if missing:
            count = f"{len(missing)} tensors are" if len(missing) > 1 else "a tensor is"
            raise self.fail(f"{count} missing", missing, LIST_NAMES)
        replaces = self.edit.kind in _BESIDE
        taken = Counter(name for step in steps for name in step.sources) if not replaces else Counter[str]()
        if twice := [name for name, count in taken.items() if count > 1]:
            raise self.fail("two steps take one tensor", twice)
        targets = Counter(name for step in steps for name in step.targets)
        new = not replaces or self.edit.details.get("new") or self.edit.kind == "zeros"
        kept = self.tensors.keys() - taken.keys() if new else set()
        if twice := [name for name, count in targets.items() if count > 1 or name in kept]:
            raise self.fail("two tensors would have one name", twice)
        if self.edit.kind == "untie" and (lost := [name for name in targets if name not in self.tensors]):
            raise self.fail("a tensor is missing", lost, LIST_NAMES)

    def check_counts(self, step: Step) -> None:
        for names, count in zip((step.sources, step.targets), ARITY[self.edit.kind], strict=True):
            wrong = {"one": len(names) != 1, "none": bool(names), "many": not names}
            if wrong[count]:
                raise self.fail(f"a step has {len(names)} names where it takes {count}", names)

    def merged(self, made: Mapping[str, Tensors], gone: set[str]) -> Tensors:
        result: Tensors = {}
        for name, tensor in self.tensors.items():
            if name not in gone:
                result[name] = tensor
            result.update(made.get(name, {}))
        return result

    def step(self, step: Step) -> Tensors:
        sources = [self.tensors[name] for name in step.sources]
        match self.edit.kind:
            case "drop" | "remove-layers":
                return {}
            case "split" | "unstack":
                return self.split(step, sources[0])
            case "quantize":
                return self.quantized(step, sources[0])
            case "dequantize":
                return {step.targets[0]: self.dequantized(step, tuple(sources))}
            case "concat" | "stack":
                return {step.targets[0]: self.joined(step, sources)}
            case "tie":
                return {step.targets[0]: self.tied(step, sources[0])}
            case "zeros":
                return {step.targets[0]: self.zeros(step, sources[0])}
            case "untie":
                alone = replace(self.tensors[step.targets[0]], alias=("untied", step.targets[0]), placement=None)
                return {step.targets[0]: alone}
        return {step.targets[0]: self.changed(step, sources[0])}

    def changed(self, step: Step, tensor: LazyTensor) -> LazyTensor:
        """What becomes of one tensor that stays one."""
        match self.edit.kind:
            case "transpose":
                axes = self.integers("axes")
                if sorted(axes) != list(range(len(tensor.info.shape))):
                    raise self.fail(
                        f"{list(axes)} permutes no shape of {len(tensor.info.shape)} dimensions", step.sources
                    )
                return replace(self.viewed(step, turned(tensor, axes)), alias=self.alias(tensor, axes))
            case "permute":
                return self.permuted(step, tensor)
            case "reshape":
                shape = self.sized(self.integers("shape"), tensor.info.numel, step)
                return replace(reshaped(tensor, shape), alias=self.alias(tensor, shape))
            case "cast":
                return self.cast(step, tensor)
            case "map":
                try:
                    function = Function.of(self.edit.details)
                    made = mapped(tensor, function)
                except ValueError as error:
                    raise self.fail(str(error), step.sources) from error
                return replace(made, alias=self.alias(tensor, function))
        return tensor

    def cast(self, step: Step, tensor: LazyTensor) -> LazyTensor:
        name = self.edit.details.get("dtype")
        dtype = DTYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            raise self.fail(f"there is no element type {name!r}")
        if tensor.info.dtype.kind in ("complex", "quantized"):
            raise self.fail(f"{tensor.info.dtype} is not cast", step.sources, "a pattern that leaves these out")
        if dtype.kind == "block" and dtype is not tensor.info.dtype and (why := unfit(tensor.info, dtype)):
            raise self.fail(f"a tensor that {why} cannot be {dtype}", step.sources, "a pattern that leaves it out")
        return cast_to(tensor, dtype)

    def dequantized(self, step: Step, tensors: tuple[LazyTensor, ...]) -> LazyTensor:
        try:
            made = dequantized(tensors, self.edit.details)
        except ValueError as error:
            raise self.fail(f"{step.targets[0]!r}: {error}", step.sources) from error
        known = [tensor.alias for tensor in tensors]
        return replace(made, alias=None if None in known else (self.edit.kind, *known))

    def quantized(self, step: Step, tensor: LazyTensor) -> Tensors:
        scheme = SCHEMES.get(str(self.edit.details.get("scheme")))
        if scheme is None:
            raise self.fail(f"it needs one of the schemes {', '.join(SCHEMES)}", step.sources)
        if len(step.targets) != 1 + len(scheme.parts):
            raise self.fail(f"{scheme.name} makes {1 + len(scheme.parts)} tensors", step.targets)
        try:
            made = coded(tensor, scheme)
        except ValueError as error:
            raise self.fail(f"{step.sources[0]!r}: {error}", step.sources) from error
        parts = enumerate(zip(step.targets, made, strict=True))
        return {name: replace(one, alias=self.alias(tensor, scheme.name, part)) for part, (name, one) in parts}

    def integers(self, key: str) -> tuple[int, ...]:
        value = self.edit.details.get(key)
        if not isinstance(value, list) or not all(type(item) is int and item >= -1 for item in value):
            raise self.fail(f"it needs {key!r}, a list of sizes")
        return tuple(item for item in value if isinstance(item, int))

    def sized(self, shape: tuple[int, ...], numel: int, step: Step) -> tuple[int, ...]:
        """The shape with its -1, if it has one, worked out."""
        known = prod(n for n in shape if n >= 0)
        if shape.count(-1) == 1 and known and numel % known == 0:
            return tuple(numel // known if n < 0 else n for n in shape)
        if -1 in shape or known != numel:
            raise self.fail(f"{numel} elements are not what {list(shape)} has", step.sources)
        return shape

    def axis(self, dimensions: int) -> int:
        axis = self.edit.details.get("axis", 0)
        if type(axis) is not int or not 0 <= axis < dimensions:
            raise self.fail(f"there is no dimension {axis} in a shape of {dimensions}")
        return axis

    def alias(self, tensor: LazyTensor, *how: object) -> object:
        """What tied tensors that are changed alike go on sharing."""
        return None if tensor.alias is None else (self.edit.kind, tensor.alias, how)

    def viewed(self, step: Step, view: LazyTensor | None) -> LazyTensor:
        if view is None:
            raise UnsupportedError(
                f"{step.sources[0]!r} cannot be cut or turned: its elements are packed, several to a byte",
                hint="an edit of kind cast before this one gives them bytes of their own",
            )
        return view

    def tied(self, step: Step, kept: LazyTensor) -> LazyTensor:
        other = self.tensors.get(step.targets[0], kept)
        if (other.info.dtype, other.info.shape) != (kept.info.dtype, kept.info.shape):
            raise self.fail("tensors of unlike types or shapes cannot be one", (*step.sources, *step.targets))
        return kept if kept.alias is not None else replace(kept, alias=("tied", step.sources[0]))

    def zeros(self, step: Step, like: LazyTensor) -> LazyTensor:
        if like.info.dtype.kind in ("block", "quantized") or like.info.dtype is DType.F8_E8M0:
            raise self.fail(f"{like.info.dtype} has no 0 that is told by its bytes", step.sources)
        return LazyTensor(like.info, Zeros())

    def permuted(self, step: Step, tensor: LazyTensor) -> LazyTensor:
        """One dimension seen as several, which change places and are one again: the halves of rotary heads."""
        shape, axis = tensor.info.shape, self.axis(len(tensor.info.shape))
        sizes, axes = self.sized(self.integers("shape"), shape[axis], step), self.integers("axes")
        if sorted(axes) != list(range(len(sizes))):
            raise self.fail(f"{list(axes)} permutes no shape of {len(sizes)} dimensions", step.sources)
        apart = reshaped(tensor, (*shape[:axis], *sizes, *shape[axis + 1 :]))
        after = range(axis + len(sizes), len(apart.info.shape))
        view = self.viewed(step, turned(apart, (*range(axis), *(axis + i for i in axes), *after)))
        return replace(reshaped(view, shape), alias=self.alias(tensor, axis, sizes, axes))

    def split(self, step: Step, tensor: LazyTensor) -> Tensors:
        shape, axis = tensor.info.shape, self.axis(len(tensor.info.shape))
        count = len(step.targets)
        sizes = self.lengths(step, shape[axis], count)
        blocks = self.blocks(step, (shape[axis], *sizes))
        whole = tensor
        if blocks > 1:
            whole = reshaped(tensor, (*shape[:axis], blocks, shape[axis] // blocks, *shape[axis + 1 :]))
        made: Tensors = {}
        at = 0
        for name, size in zip(step.targets, sizes, strict=True):
            part = self.viewed(step, cut(whole, axis + (blocks > 1), at // blocks, (at + size) // blocks))
            own = () if self.edit.kind == "unstack" else (size,)
            part = reshaped(part, (*shape[:axis], *own, *shape[axis + 1 :]))
            made[name] = replace(part, alias=self.alias(tensor, axis, blocks, at, size))
            at += size
        return made

    def lengths(self, step: Step, whole: int, count: int) -> tuple[int, ...]:
        """How long each part is."""
        if self.edit.kind == "unstack":
            sizes: tuple[int, ...] = (1,) * count
        elif "sizes" in self.edit.details:
            sizes = self.integers("sizes")
        elif whole % count:
            raise self.fail(f"{whole} cannot be split into {count} equal parts", step.sources)
        else:
            sizes = (whole // count,) * count
        if len(sizes) != count or sum(sizes) != whole or min(sizes) < 0:
            raise self.fail(f"parts of {list(sizes)} do not make {whole}", step.sources)
        return sizes

    def blocks(self, step: Step, lengths: Sequence[int]) -> int:
        """In how many places a part lies in the whole: once, or once in every head of an interleaved q, k and v."""
        blocks = self.edit.details.get("blocks", 1)
        if type(blocks) is not int or blocks < 1 or any(length % blocks for length in lengths):
            raise self.fail(f"{lengths[0]} is not made of {blocks} blocks of equal length", step.sources)
        return blocks

    def joined(self, step: Step, tensors: Sequence[LazyTensor]) -> LazyTensor:
        shape, dtype = tensors[0].info.shape, tensors[0].info.dtype
        stack = self.edit.kind == "stack"
        axis = self.axis(len(shape) + stack)
        if stack:
            shape = (*shape[:axis], 1, *shape[axis:])
        whole = {
            (t.info.dtype, len(t.info.shape), t.info.shape if stack else _without(t.info.shape, axis)) for t in tensors
        }
        if len(whole) > 1:
            raise self.fail("their types or shapes do not go together", step.sources)
        sizes = [1 if stack else tensor.info.shape[axis] for tensor in tensors]
        if not stack and self.edit.details.get("sizes", sizes) != sizes:
            raise self.fail(f"they are of lengths {sizes}, not {self.edit.details['sizes']}", step.sources)
        blocks = self.blocks(step, sizes)
        own = (blocks,) if blocks > 1 else ()
        apart = [
            reshaped(tensor, (*shape[:axis], *own, size // blocks, *shape[axis + 1 :])) if own or stack else tensor
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        made = joined(apart, axis + len(own))
        if own:
            made = reshaped(made, (*shape[:axis], sum(sizes), *shape[axis + 1 :]))
        known = [tensor.alias for tensor in tensors]
        alias = None if None in known else (self.edit.kind, dtype.name, axis, blocks, *known)
        return replace(made, alias=alias)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
