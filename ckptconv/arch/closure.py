"""Checks that a spec is closed: every name is known, nothing is cyclic, and nesting is bounded.

Finds each rule's loops.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from ckptconv.arch.recipe.tree import all_loops
from ckptconv.arch.tree import Name, depth
from ckptconv.errors import CorruptFileError, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.recipe.tree import Recipe
    from ckptconv.arch.spec import Spec, TensorRule

MAX_FRAMES = 400
"""Python frames that evaluating one expression may take, with its lets; the interpreter's limit is 1,000."""


def check_names(spec: Spec, place: Callable[[Sequence[str]], str]) -> Spec:
    """`spec` with each rule's loops filled in. `place` describes where a key is.

    Raises CorruptFileError for an unknown name, a name with two meanings, a cycle, a loop that is not part of a
    tensor's name, or an ambiguous name; LimitError for lets that are nested too deeply.
    """
    return _Closure(spec, place).check()


class _Closure:
    def __init__(self, spec: Spec, place: Callable[[Sequence[str]], str]) -> None:
        self.spec, self.place = spec, place
        self.known = {**spec.params, **spec.lets, **spec.loops}
        self.let_loops: dict[str, frozenset[str]] = {}
        self.let_frames: dict[str, int] = {}

    def fail(self, where: str, problem: str, hint: str | None = None) -> NoReturn:
        raise CorruptFileError(f"{where}: {problem}" if where else problem, hint=hint)

    def check(self) -> Spec:
        spec = self.spec
        self.check_unique_names()
        for name in spec.lets:
            self.visit(name, ())
        self.check_loop_order()
        for name, param in spec.params.items():
            if param.default is not None and self.used(param.default, self.place(("params", name))):
                self.fail(self.place(("params", name)), "a default cannot depend on a loop variable")
        for entry in spec.constraints:
            where = self.place(("constraints", entry.name))
            if self.used(entry.formula, where):
                self.fail(where, "a constraint cannot depend on a loop variable")
        for name in spec.config.params:
            if name not in spec.params:
                self.unknown(name, self.place(("config", "params", name)), spec.params)
        self.check_recipe()
        varying = {name: tuple(sorted(loops)) for name, loops in self.let_loops.items() if loops}
        return replace(spec, rules=tuple(self.rule(rule) for rule in spec.rules), varying=varying)

    def check_recipe(self) -> None:
        recipe = self.spec.forward
        if recipe is None:
            return
        self.check_blocks(recipe)
        for formula, loops, text in recipe.formulas:
            where = f"{recipe.where}: {text!r}"
            if left := self.used(formula, where) - set(loops):
                self.fail(where, f"uses the loop {min(left)!r}, which is not around it")

    def check_blocks(self, recipe: Recipe) -> None:
        """Every ``for`` names loops: each once, and inside those that its bounds use."""
        for names, around in all_loops(recipe):
            heading, seen = f"'for {' '.join(names)}'", list(around)
            for name in names:
                if name not in self.spec.loops:
                    self.fail(recipe.where, f"{heading}: no loop {name!r} in [repeat]")
                if name in seen:
                    self.fail(recipe.where, f"{heading}: inside a loop over the same {name!r}")
                if missing := self.loops_behind(name) - set(seen):
                    self.fail(recipe.where, f"{heading}: {name!r} depends on {min(missing)!r}, which is not around it")
                seen.append(name)

    def check_unique_names(self) -> None:
        spec = self.spec
        for table, names in (("let", spec.lets), ("repeat", spec.loops)):
            for name in names:
                if (name in spec.params) + (name in spec.lets) + (name in spec.loops) > 1:
                    self.fail(self.place((table, name)), "the name has two meanings")

    def visit(self, name: str, chain: tuple[str, ...]) -> frozenset[str]:
        """The loops that a let depends on. Also notes how deep it is."""
        if name in self.let_loops:
            return self.let_loops[name]
        if name in chain:
            where = self.place(("let", name))
            self.fail(where, f"defined by itself: {' → '.join((*chain[chain.index(name) :], name))}")
        if len(chain) >= MAX_FRAMES // 4:
            raise LimitError(f"{self.place(('let', name))}: lets nested too deeply")
        formula = self.spec.lets[name]
        self.let_loops[name] = self.used(formula, self.place(("let", name)), (*chain, name))
        below = max((self.let_frames[other] for other in formula.names if other in self.let_frames), default=0)
        self.let_frames[name] = depth(formula.node) + 4 + below
        if self.let_frames[name] > MAX_FRAMES:
            raise LimitError(f"{self.place(('let', name))}: lets nested too deeply")
        return self.let_loops[name]

    def used(self, formula: Formula, where: str, chain: tuple[str, ...] = ()) -> frozenset[str]:
        """The loop variables that a formula depends on, through lets too."""
        found: set[str] = set()
        for name in formula.names:
            if name in self.spec.loops:
                found.add(name)
            elif name in self.spec.lets:
                found |= self.visit(name, chain)
            elif name not in self.spec.params:
                self.unknown(name, where, self.known)
        return frozenset(found)

    def unknown(self, name: str, where: str, known: Iterable[str]) -> NoReturn:
        near = get_close_matches(name, list(known), 1)
        hint = f"did you mean {near[0]!r}?" if near else "names come from [params], [let] and [repeat]"
        self.fail(where, f"no param, let or loop {name!r}", hint)

    def check_loop_order(self) -> None:
        """A loop's bounds may use the loops declared before it, and no others."""
        seen: set[str] = set()
        for name, loop in self.spec.loops.items():
            where = self.place(("repeat", name))
            for bound in loop.formulas:
                later = self.used(bound, where) - seen
                if later:
                    self.fail(where, f"depends on the loop {min(later)!r}, which is not declared before it")
            seen.add(name)

    def loops_behind(self, name: str) -> set[str]:
        """The loops that a loop's bounds depend on, directly or not."""
        found: set[str] = set()
        for bound in self.spec.loops[name].formulas:
            for other in self.used(bound, ""):
                found |= {other} | self.loops_behind(other)
        return found

    def rule(self, rule: TensorRule) -> TensorRule:
        where = rule.where
        named = {loop for part in rule.name.formulas for loop in self.used(part, where)}
        for name in sorted(named):
            missing = self.loops_behind(name) - named
            if missing:
                self.fail(where, f"the loop {name!r} depends on {min(missing)!r}, which the name does not use")
        for formula in rule.formulas:
            open_loops = self.used(formula, where) - named
            if open_loops:
                self.fail(where, f"uses the loop {min(open_loops)!r}, which the name does not use")
        self.check_unambiguous(rule)
        return replace(rule, loops=tuple(name for name in self.spec.loops if name in named))

    def check_unambiguous(self, rule: TensorRule) -> None:
        """A name must show its placeholders' values: numbers stand between other text, and there is one free text at
        most.

        Literal digits may follow a number if other text follows them, as in ``{block}0in``.
        """
        free, previous = 0, "text"
        for part in rule.name.parts:
            kind = "text" if isinstance(part, str) else self.placeholder_kind(part)
            if kind == previous == "number":
                self.fail(rule.where, "two numbers with nothing between them in a name")
            if isinstance(part, str) and part.isdigit() and previous == "number":
                self.fail(rule.where, "nothing but digits right after a number in a name")
            free += kind == "free"
            if free > 1:
                self.fail(rule.where, "two texts without choices in a name")
            previous = kind

    def placeholder_kind(self, part: Formula) -> str:
        if isinstance(part.node, Name) and part.node.name in self.spec.params:
            param = self.spec.params[part.node.name]
            if param.type == "str":
                return "chosen" if param.choices else "free"
        return "number"
