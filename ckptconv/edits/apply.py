"""Making the changes that edits describe: lazily, and without reading a tensor.

`apply` takes the tensors by name and gives new ones, in the old order; a name that a step makes of another stands where
that stood. Every step is done or refused: a name that is missing, a name that would be there twice, or a pattern that
nothing matches is an error that lists the names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.edit import Edit, Step
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.edits.cast import cast_tensor
from ckptconv.edits.joined import joined
from ckptconv.edits.patterns import ANY
from ckptconv.edits.through import cut, turned
from ckptconv.edits.views import reshaped
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json

Tensors = dict[str, LazyTensor]

ARITY: dict[Kind, tuple[str, str]] = {
    "rename": ("one", "one"), "transpose": ("one", "one"), "reshape": ("one", "one"), "cast": ("one", "one"),
    "split": ("one", "many"), "concat": ("many", "one"), "stack": ("many", "one"), "tie": ("one", "one"),
    "untie": ("one", "one"), "drop": ("one", "none"), "remove-layers": ("one", "none"),
    "insert-layers": ("none", "one"),
}  # fmt: skip
"""How many names each step of a kind has on its two sides."""


def apply(tensors: Mapping[str, LazyTensor], edits: Sequence[Edit]) -> Tensors:
    """The tensors after all edits, one after another. Raises EditError, UnsupportedError."""
    made = dict(tensors)
    for number, edit in enumerate(edits, 1):
        made = _Application(made, edit, number).run()
    return made


def steps_of(edit: Edit, names: Sequence[str]) -> tuple[Step, ...]:
    """The edit's steps, or those that its patterns stand for among `names`. Raises EditError where there are none."""
    if edit.steps:
        return edit.steps
    if not edit.sources:
        return ()
    first, *others = edit.sources
    expression = re.compile("(.*?)".join(map(re.escape, first.split(ANY))), re.DOTALL)
    known = set(names)
    steps: list[Step] = []
    for name in names:
        found = expression.fullmatch(name)
        if found is None:
            continue
        sources = (name, *(_filled(other, found.groups()) for other in others))
        if missing := [other for other in sources if other not in known]:
            raise EditError(f"{edit.kind} {first!r} matches {name!r}, and there is no {missing[0]!r}")
        steps.append(Step(sources, tuple(_filled(target, found.groups()) for target in edit.targets or ())))
    if not steps:
        raise EditError(f"{edit.kind} {first!r} matches no tensor", hint="ckptconv inspect --list shows the names")
    return tuple(steps)


def _filled(pattern: str, texts: Sequence[str]) -> str:
    made, *rest = pattern.split(ANY)
    if len(rest) > len(texts):
        raise EditError(f"{pattern!r} has more places than the pattern that it is filled from")
    return made + "".join(text + part for text, part in zip(texts, rest, strict=False))


@dataclass
class _Application:
    tensors: Tensors
    edit: Edit
    number: int

    def fail(self, problem: str, names: Sequence[str] = (), hint: str | None = None) -> EditError:
        shown = " + ".join(self.edit.sources) or " + ".join(self.edit.targets)
        return EditError(
            f"edit {self.number}, {self.edit.kind} {shown!r}: {problem}",
            hint=hint,
            details=[repr(n) for n in names[:20]],
        )

    def run(self) -> Tensors:
        edit = self.edit
        if edit.kind == "insert-layers":
            raise self.fail("the values of layers that are inserted are not in a list of edits", list(edit.targets))
        steps = steps_of(edit, list(self.tensors))
        wanted = ARITY[edit.kind]
        for step in steps:
            for names, count in ((step.sources, wanted[0]), (step.targets, wanted[1])):
                if (
                    (count == "one" and len(names) != 1)
                    or (count == "none" and names)
                    or (count == "many" and not names)
                ):
                    raise self.fail(f"a step has {len(names)} names where it takes {count}")
        if missing := [name for step in steps for name in step.sources if name not in self.tensors]:
            raise self.fail(f"{len(missing)} tensors are missing", missing, "ckptconv inspect --list shows the names")
        made: dict[str, Tensors] = {}
        gone: set[str] = set()
        for step in steps:
            new = self.step(step)
            if edit.kind in ("tie", "untie"):
                gone |= set(step.targets)  # replaced where it stands, or put behind what it shares
                place = step.targets[0] if step.targets[0] in self.tensors else step.sources[0]
            else:
                gone |= set(step.sources)
                place = step.sources[0]
            for name in new:
                if any(name in others for others in made.values()):
                    raise self.fail("two tensors would have one name", [name])
            made.setdefault(place, {}).update(new)
        return self.merged(made, gone)

    def merged(self, made: Mapping[str, Tensors], gone: set[str]) -> Tensors:
        result: Tensors = {}
        for name, tensor in self.tensors.items():
            entries = dict(made.get(name, {}))
            if name not in gone:
                entries = {name: tensor, **{key: value for key, value in entries.items() if key != name}}
                if name in made.get(name, {}):
                    raise self.fail("two tensors would have one name", [name])
            for key, value in entries.items():
                if key in result or (key != name and key in self.tensors and key not in gone):
                    raise self.fail("two tensors would have one name", [key])
                result[key] = value
        return result

    def step(self, step: Step) -> Tensors:
        sources = [self.tensors[name] for name in step.sources]
        details = self.edit.details
        match self.edit.kind:
            case "rename":
                return {step.targets[0]: sources[0]}
            case "transpose":
                return {step.targets[0]: self.turned(step, sources[0], self.integers("axes"))}
            case "reshape":
                return {step.targets[0]: self.reshaped(step, sources[0], self.integers("shape"))}
            case "cast":
                return {step.targets[0]: self.cast(sources[0])}
            case "split":
                return self.split(step, sources[0])
            case "concat" | "stack":
                return {step.targets[0]: self.joined(step, sources)}
            case "tie":
                shared = (
                    sources[0] if sources[0].alias is not None else replace(sources[0], alias=("tied", step.sources[0]))
                )
                return {step.targets[0]: shared}
            case "untie":
                kept = self.tensors.get(step.targets[0], sources[0])
                return {step.targets[0]: replace(kept, alias=("untied", step.targets[0]), placement=None)}
        assert not step.targets, details
        return {}

    def integers(self, key: str) -> tuple[int, ...]:
        value = self.edit.details.get(key)
        if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
            raise self.fail(f"it needs {key!r}, a list of sizes")
        return tuple(item for item in value if isinstance(item, int))

    def axis(self, shape: Sequence[int]) -> int:
        axis: Json = self.edit.details.get("axis", 0)
        if type(axis) is not int or not 0 <= axis < len(shape):
            raise self.fail(f"there is no dimension {axis} in a shape of {len(shape)}")
        return axis

    def turned(self, step: Step, tensor: LazyTensor, axes: tuple[int, ...]) -> LazyTensor:
        if sorted(axes) != list(range(len(tensor.info.shape))):
            raise self.fail(f"{list(axes)} permutes no shape of {len(tensor.info.shape)} dimensions", step.sources)
        return replace(self.viewed(step, turned(tensor, axes)), alias=self.alias(tensor, axes))

    def reshaped(self, step: Step, tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
        if TensorInfo.of(tensor.info.dtype, shape).numel != tensor.info.numel:
            raise self.fail(f"{list(tensor.info.shape)} does not reshape to {list(shape)}", step.sources)
        return replace(reshaped(tensor, shape), alias=self.alias(tensor, shape))

    def alias(self, tensor: LazyTensor, *how: object) -> object:
        """What tied tensors that are changed alike go on sharing."""
        return None if tensor.alias is None else (self.edit.kind, tensor.alias, how)

    def viewed(self, step: Step, view: LazyTensor | None) -> LazyTensor:
        if view is None:
            raise UnsupportedError(
                f"{step.sources[0]!r} cannot be cut or turned: its elements are packed, or an edit before reshaped it",
                hint="do it in two conversions",
            )
        return view

    def cast(self, tensor: LazyTensor) -> LazyTensor:
        name = self.edit.details.get("dtype")
        dtype = DTYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            raise self.fail(f"there is no element type {name!r}")
        return cast_to(tensor, dtype)

    def split(self, step: Step, tensor: LazyTensor) -> Tensors:
        axis = self.axis(tensor.info.shape)
        length = tensor.info.shape[axis]
        if "sizes" in self.edit.details:
            sizes = self.integers("sizes")
        elif length % len(step.targets):
            raise self.fail(f"{length} cannot be split into {len(step.targets)} equal parts", step.sources)
        else:
            sizes = (length // len(step.targets),) * len(step.targets)
        if len(sizes) != len(step.targets) or sum(sizes) != length:
            raise self.fail(f"parts of {list(sizes)} do not make {length}", step.sources)
        made: Tensors = {}
        at = 0
        for name, size in zip(step.targets, sizes, strict=True):
            part = self.viewed(step, cut(tensor, axis, at, at + size))
            made[name] = replace(part, alias=self.alias(tensor, axis, at, size))
            at += size
        return made

    def joined(self, step: Step, tensors: Sequence[LazyTensor]) -> LazyTensor:
        if self.edit.kind == "stack":
            tensors = [reshaped(tensor, (1, *tensor.info.shape)) for tensor in tensors]
        axis = self.axis(tensors[0].info.shape)
        frames = {(t.info.dtype, t.info.shape[:axis], t.info.shape[axis + 1 :]) for t in tensors}
        if len(frames) > 1:
            raise self.fail("their types or shapes do not go together", step.sources)
        return joined(tensors, axis)


def cast_to(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """The tensor as another element type; itself where it has that one. Tied tensors stay tied."""
    if tensor.info.dtype is dtype:
        return tensor
    alias = None if tensor.alias is None else ("cast", tensor.alias, dtype.name)
    return replace(cast_tensor(tensor, dtype), alias=alias)


def inverted(edits: Sequence[Edit]) -> list[Edit]:
    """The edits that undo these. Raises EditError for one that nothing undoes, saying why."""
    return [_inverse(edit, number) for number, edit in reversed(list(enumerate(edits, 1)))]


_OPPOSITE: dict[Kind, Kind] = {
    "rename": "rename", "transpose": "transpose", "reshape": "reshape", "cast": "cast", "split": "concat",
    "concat": "split", "untie": "tie", "tie": "untie",
}  # fmt: skip


def _inverse(edit: Edit, number: int) -> Edit:
    def fail(why: str) -> EditError:
        return EditError(f"edit {number}, {edit.kind} {' + '.join(edit.sources)!r}, cannot be undone: {why}")

    details = dict(edit.details)
    match edit.kind:
        case "transpose":
            axes = details.get("axes")
            if not isinstance(axes, list):
                raise fail("it needs 'axes'")
            details["axes"] = sorted(range(len(axes)), key=axes.__getitem__)
        case "reshape":
            if "from" not in details:
                raise fail("it does not say the shape before: from = [...]")
            details["from"], details["shape"] = details["shape"], details["from"]
        case "cast":
            before, after = DTYPES.get(str(details.get("from"))), DTYPES.get(str(details.get("dtype")))
            if before is None or after is None:
                raise fail("it does not say the type before: from = '…'")
            if not _widens(before, after):
                raise fail(f"{after} does not hold all that {before} held")
            details["from"], details["dtype"] = after.name, before.name
        case "tie" if details.get("new"):
            return Edit("drop", edit.targets, (), {}, tuple(Step(step.targets, ()) for step in edit.steps))
        case "tie" | "untie":
            return Edit(_OPPOSITE[edit.kind], edit.sources, edit.targets, details, edit.steps)
        case kind if kind not in _OPPOSITE:
            raise fail("the values are not in it")
    steps = tuple(Step(step.targets, step.sources) for step in edit.steps)
    return Edit(_OPPOSITE[edit.kind], edit.targets, edit.sources, details, steps)


def _widens(before: DType, after: DType) -> bool:
    """Whether every value of the one is a value of the other."""
    exact = {
        DType.F16: (DType.F32, DType.F64), DType.BF16: (DType.F32, DType.F64), DType.F32: (DType.F64,),
        DType.F8_E4M3: (DType.F16, DType.BF16, DType.F32, DType.F64),
        DType.F8_E5M2: (DType.F16, DType.BF16, DType.F32, DType.F64),
    }  # fmt: skip
    return after in exact.get(before, ())
