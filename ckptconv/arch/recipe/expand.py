"""Expands a forward recipe into a `Program`: params are bound, loops run, and every operation gets its shape."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, NoReturn

from ckptconv.arch.evaluate import Budget
from ckptconv.arch.operations import EvaluationError
from ckptconv.arch.polynomial import UndeterminedError
from ckptconv.arch.recipe.catalog import (
    ACTIVATIONS,
    ADD,
    KINDS,
    MAX_ATTRIBUTE,
    POSITIVE,
    REQUIRED,
    Attribute,
    Dims,
)  # fmt: skip
from ckptconv.arch.recipe.joins import JOINS
from ckptconv.arch.recipe.program import INPUT, OUTPUT, Operation, Program, Value, stored_as
from ckptconv.arch.recipe.tree import Block, Recipe, Step
from ckptconv.arch.rows import WRITTEN
from ckptconv.arch.scope import Bindings, Scope
from ckptconv.arch.table import loop_values, missing_params, render
from ckptconv.core.text import shape_text
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.operations import Value as Known
    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.arch.table import Table
    from ckptconv.arch.template import Template

MAX_OPERATIONS = 100_000
"""The most operations that a program may have."""


def expand_recipe(table: Table, present: Container[str] | None = None) -> Program:
    """The program of the table's spec, with the table's params.

    present: the names in the checkpoint; optional tensors that are not among them are not used.

    Raises UsageError if the spec has no recipe, or if a param that it needs has no value; CorruptFileError if the
    recipe does not fit the table (a module without tensors, a tensor that no step uses, shapes that do not follow from
    one another).
    """
    recipe = table.spec.forward
    if recipe is None or not says_what_is_computed(table.spec, table.params):
        raise UsageError(
            f"the architecture {table.spec.name!r} says nothing of what the network computes: it has no forward recipe",
            hint="name the network's own Python with --arch FILE.py:CLASS",
        )
    return _Expansion(table, recipe, present).run()


def says_what_is_computed(spec: Spec, params: Mapping[str, ParamValue]) -> bool:
    """Whether the spec has a recipe that holds for a model with these params."""
    recipe = spec.forward
    return recipe is not None and Scope(spec, Bindings.of(spec, params), Budget()).truth(recipe.when) is True


class _RecordingScope(Scope):
    """A scope that records which names were looked up."""

    def __init__(self, spec: Spec, bindings: Bindings) -> None:
        super().__init__(spec, bindings, Budget())
        self.looked_up: set[str] = set()

    def lookup(self, name: str) -> Known:
        """As `Scope.lookup`."""
        self.looked_up.add(name)
        return super().lookup(name)


class _Expansion:
    def __init__(self, table: Table, recipe: Recipe, present: Container[str] | None) -> None:
        self.table, self.recipe, self.spec, self.present = table, recipe, table.spec, present
        self.scope = _RecordingScope(self.spec, Bindings.of(self.spec, table.params))
        self.operations: list[Operation] = []
        self.shapes: dict[str, Dims] = {}
        self.integers: set[str] = set()
        self.modules: dict[str, tuple[object, ...]] = {}

    def fail(self, text: str, problem: str, hint: str | None = None) -> NoReturn:
        raise CorruptFileError(f"{self.recipe.where}: {text!r}: {problem}", hint=hint or WRITTEN)

    def run(self) -> Program:
        shape = tuple(part if isinstance(part, str) else self.integer(part, "input") for part in self.recipe.input)
        if low := [dim for dim in shape if isinstance(dim, int) and dim < 1]:
            self.fail("input", f"a dimension of {low[0]}")
        self.shapes[INPUT] = shape
        if self.recipe.dtype is not None:
            self.integers.add(INPUT)
        last = self.steps(self.recipe.steps, INPUT)
        if last == INPUT:
            self.fail("steps", "they do nothing with the input")
        self.check_all_used()
        output = Value(OUTPUT, self.shapes[last], self.recipe.dtype if last in self.integers else None)
        renamed = [self.renamed(operation, last) for operation in self.operations]
        params = tuple(name for name in self.spec.params if name in self.scope.looked_up)
        return Program(self.table, tuple(renamed), Value(INPUT, shape, self.recipe.dtype), output, params)

    def check_all_used(self) -> None:
        """Refuse a table with a tensor that no step uses: the result would not be what was trained."""
        used = {stored_as(self.table, name) for operation in self.operations for name in operation.weights.values()}
        for name, entry in self.table.tensors.items():
            absent = entry.optional and self.present is not None and name not in self.present
            if stored_as(self.table, name) not in used and not absent:
                self.fail("steps", f"no step uses the tensor {name!r}")

    def renamed(self, operation: Operation, last: str) -> Operation:
        """The operation, with the last value renamed to the output's name."""
        if last not in (operation.output, *operation.inputs):
            return operation
        inputs = tuple(OUTPUT if name == last else name for name in operation.inputs)
        output = OUTPUT if operation.output == last else operation.output
        return replace(operation, inputs=inputs, output=output)

    def steps(self, steps: tuple[Step | Block, ...], value: str) -> str:
        for step in steps:
            value = self.block(step, value) if isinstance(step, Block) else self.step(step, value)
        return value

    def block(self, block: Block, value: str) -> str:
        match block.kind:
            case "for":
                return self.run_loops(block, block.loops, value)
            case "if":
                return self.steps(block.steps, value) if self.holds(block.when) else value
            case "residual":
                return self.residual(block, value)
            case "sum" | "product" | "concat" | "attention":
                return self.join(block, value)
        return value  # a shortcut runs beside the others, not after them

    def run_loops(self, block: Block, loops: tuple[str, ...], value: str) -> str:
        if not loops:
            return self.steps(block.steps, value)
        name, *inner = loops
        for index in loop_values(self.spec, self.spec.loops[name], self.scope):
            self.scope.budget.spend(8)
            self.scope.loops[name] = index
            value = self.run_loops(block, tuple(inner), value)
        self.scope.loops.pop(name, None)
        return value

    def residual(self, block: Block, value: str) -> str:
        main = self.steps(block.steps, value)
        if block.when is not None and not self.holds(block.when):
            return main
        shortcut = value
        for step in block.steps:
            if isinstance(step, Block) and step.kind == "shortcut" and (step.when is None or self.holds(step.when)):
                shortcut = self.steps(step.steps, value)
        main_dims, shortcut_dims = self.shapes[main], self.shapes[shortcut]
        if (main in self.integers) != (shortcut in self.integers):
            self.fail("residual", "adds integers to floats")
        if len(main_dims) != len(shortcut_dims) or any(
            a != b for a, b in zip(main_dims, shortcut_dims, strict=True) if isinstance(a, int) and isinstance(b, int)
        ):
            self.fail("residual", f"adds {shape_text(main_dims)} to {shape_text(shortcut_dims)}")
        output = self.emit(Operation(ADD, "add", (main, shortcut), "", shape=main_dims))
        self.pass_integers_on(main, output)
        return output

    def join(self, block: Block, value: str) -> str:
        """The branches' results, put together."""
        join = JOINS[block.kind]
        attributes = self.attributes(block.kind, block.attributes, join.attributes)
        branches = [each for each in block.steps if isinstance(each, Block)]
        values = [self.steps(each.steps, value) for each in branches if each.when is None or self.holds(each.when)]
        if len(values) < 2 or join.branches not in (None, len(values)):
            self.fail(block.kind, f"takes {join.branches or 'two or more'} branches, and has {len(values)}")
        if integers := [name for name in values if name in self.integers]:
            self.fail(block.kind, f"takes floats, and gets integers ({len(integers)} of {len(values)} branches)")
        groups = [values] if not join.pairwise else [[after] for after in values[1:]]
        output = values[0] if join.pairwise else ""
        for group in groups:
            inputs = [output, *group] if output else group
            try:
                shape = join.shape([self.shapes[name] for name in inputs], attributes)
            except CkptconvError as error:
                self.fail(block.kind, error.message)
            output = self.emit(Operation(join.kind, join.kind, tuple(inputs), "", attributes, {}, shape))
        return output

    def pass_integers_on(self, value: str, output: str) -> None:
        """Record that an operation's output is integers if its input is."""
        if value in self.integers:
            self.integers.add(output)

    def step(self, step: Step, value: str) -> str:
        kind = self.operation(step)
        attributes = self.attributes(step.text, step.attributes, KINDS[kind].attributes)
        module = "" if step.module is None else self.text(step.module, step.text)
        weights = self.weights(step, kind, module)
        shapes = {role: self.table.tensors[name].shape for role, name in weights.items()}
        dims = self.shapes[value]
        ranks = KINDS[kind].rank
        if ranks and len(dims) not in ranks:
            self.fail(
                step.text, f"takes an input of {' or '.join(map(str, ranks))} dimensions, and gets {shape_text(dims)}"
            )
        takes = KINDS[kind].takes
        if takes != "any" and (takes == "int") != (value in self.integers):
            if takes == "float":
                self.fail(step.text, "takes floats, and gets integers")
            self.fail(step.text, "takes integers, and gets floats", 'dtype = "I64" says that integers go in')
        try:
            shape = KINDS[kind].shape(dims, attributes, shapes)
        except CkptconvError as error:
            self.fail(step.text, error.message)
        except ValueError:  # the dimensions of the first tensor do not unpack
            role = KINDS[kind].weights[0]
            self.fail(step.text, f"{module}.{role} has a shape of {len(shapes[role])} dimensions")
        if module:
            used_as = (kind, attributes, len(dims) if kind == "batch_norm" else 0)
            if self.modules.setdefault(module, used_as) != used_as:
                self.fail(step.text, f"{module!r} is another operation, or has other attributes, in a step before it")
        output = self.emit(Operation(kind, module or kind, (value,), "", attributes, weights, shape))
        if takes == "any":
            self.pass_integers_on(value, output)
        return output

    def emit(self, operation: Operation) -> str:
        """Add an operation. Returns the name that its output gets."""
        if len(self.operations) >= MAX_OPERATIONS:
            raise LimitError(f"{self.recipe.where}: more than {MAX_OPERATIONS} operations")
        name = f"v{len(self.operations)}"
        self.operations.append(replace(operation, output=name))
        self.shapes[name] = operation.shape
        return name

    def operation(self, step: Step) -> str:
        if not step.operation.formulas:
            return step.operation.text
        activation = self.text(step.operation, step.text)
        kind = ACTIVATIONS.get(activation.lower())
        if kind is None:
            params = ", ".join(formula.text for formula in step.operation.formulas)
            raise UsageError(
                f"{self.spec.name!r} knows no activation {activation!r} ({params})",
                hint=f"one of {', '.join(ACTIVATIONS)}",
            )
        return kind

    def attributes(
        self, text: str, stated: Mapping[str, Formula | float], known: Mapping[str, object]
    ) -> dict[str, Attribute]:
        values: dict[str, Attribute] = {}
        for key, default in known.items():
            given = stated.get(key)
            if given is None:
                if default is REQUIRED:
                    self.fail(text, f"needs {key}=…")
                value = values["kernel"] if default is None else default
            elif isinstance(default, bool):
                value = not isinstance(given, float) and self.holds(given)
            else:
                value = given if isinstance(given, float) else self.integer(given, text)
            values[key] = self.bounded(text, key, value, whole=not isinstance(default, float))
        return values

    def bounded(self, text: str, key: str, value: object, *, whole: bool) -> Attribute:
        """An attribute's value. Raises if no operation can have it."""
        assert isinstance(value, int | float)
        low = -MAX_ATTRIBUTE if key == "axis" else 1 if key in POSITIVE else 0
        if value < low or not isfinite(value) or (whole and isinstance(value, float)):
            self.fail(text, f"{key} is {value}")
        if value > MAX_ATTRIBUTE:
            raise LimitError(f"{self.recipe.where}: {text!r}: {key} is over {MAX_ATTRIBUTE}")
        return value

    def weights(self, step: Step, kind: str, module: str) -> dict[str, str]:
        roles = KINDS[kind]
        names: dict[str, str] = {}
        for role in (*roles.weights, *roles.optional, *roles.state):
            name = f"{module}.{role}" if role else module
            entry = self.table.tensors.get(name)
            if entry is not None and (not entry.optional or self.present is None or name in self.present):
                names[role] = name
                if None in self.table.tensors[name].shape and role in roles.weights:
                    self.fail(step.text, f"the params leave the shape of {name!r} open")
            elif role in roles.weights:
                self.fail(step.text, f"there is no tensor {name!r} in the table")
        return names

    def holds(self, condition: Formula | None) -> bool:
        holds = self.scope.truth(condition)
        if holds is None:
            assert condition is not None
            raise missing_params(self.spec, self.scope.bindings, [condition])
        return holds

    def integer(self, formula: Formula, text: str) -> int:
        try:
            value = self.scope.integer(formula)
        except EvaluationError as error:
            self.fail(text, str(error))
        if value is None:
            raise missing_params(self.spec, self.scope.bindings, [formula])
        return value

    def text(self, template: Template, text: str) -> str:
        try:
            return render(template, self.scope)
        except UndeterminedError:
            raise missing_params(self.spec, self.scope.bindings, template.formulas) from None
        except EvaluationError as error:
            self.fail(text, str(error))
