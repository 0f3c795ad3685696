"""Reads a spec from TOML. This is the language's reference.

    spec    = 1                          the language's version
    name    = "mlp"
    summary = "one line"
    dtype   = "float"                    the element types that fit: names (F32) or kinds (float int uint bool complex)

    [params]
    width  = "int"                       int, ints, str, strs, bool, float
    head   = { type = "str", default = "relu", choices = ["relu", "tanh"], optional = true,
               aliases = ["act"], summary = "…" }              (a default in quotes is an expression, except for str)
    [let]
    widths = "[input_size, *hidden, output_size]"
    [repeat]
    layer  = "layers"                    0, 1, … layers-1        "1:layers", "0:2*layers:2", or a list of values
    [tensors]
    "h.{layer}.weight" = "width 3*width"                       a name with {expressions}, and its dimensions
    "head.weight" = { shape = "…", optional = true, tied = "embed.weight", dtype = "I64", when = "bias" }
    "conv.weight" = [{ shape = "…", when = "a" }, { shape = "…", when = "not a" }]
    [constraints]
    "heads divide the width" = "width % heads == 0"
    [variants.gated]                     a model is one of the variants; `variant` is a param like any other
    summary = "…"                        it may have [variants.gated.tensors] and [variants.gated.constraints]
    [mount.text]                         another spec inside this one; its params are text.width, … here
    use = "encoder"                      a library name, or a .toml file beside this one
    prefix = "text_model."
    set = { width = "hidden" }           its params as expressions of this spec
    when = "…"                           the condition for it to be there; its params are optional then
    dots = false                         its names have no dots, like those of a moving average's copies
    config = "text_config"               its [config] reads the configuration under this key ("." is the whole one);
                                         of several keys, under the first that is there
    [config]                             how a Hugging Face config.json states the params
    model_type = ["llama"]
    architectures = ["LlamaForCausalLM"]
    params = { width = "hidden_size", heads = ["n_head", "12"],    the first that has a value
               depths = { for = "level", to = "len(types)", each = "2 if types[level] == 'deep' else 1" } }
    defaults = { n_head = 12 }           what an absent key means
    [evidence]
    yields_to = ["bert"]                 the better answer if both fit the names equally well
    mistaken_for = ["clip"]              specs whose incomplete files have the same names, so that names decide neither
    [forward]                            what a network computes from one input: see `recipe.tree`

`tied` may be ``{ to = "embed.weight", when = "tie_embeddings" }``. `expressions` describes the expressions.
Every mistake is refused with its line and key, an unknown key also with the most similar one that exists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.arch.closure import check_names
from ckptconv.arch.configs import read_config
from ckptconv.arch.evaluate import Formula, formula
from ckptconv.arch.expressions import is_name, split_range, split_shape
from ckptconv.arch.mount import Place, both, mounted
from ckptconv.arch.recipe.notation import RecipeReader
from ckptconv.arch.rows import Rows, Toml
from ckptconv.arch.spec import VARIANT, Constraint, Loop, Param, ParamType, Spec, TensorRule, Tie
from ckptconv.core.dtypes import DTYPES
from ckptconv.errors import UPGRADE, LimitError, UnsupportedError

if TYPE_CHECKING:
    from ckptconv.arch.recipe.tree import Recipe

VERSION = 1

Resolve = Callable[[str], Spec]

_TYPES: tuple[ParamType, ...] = ("int", "ints", "str", "strs", "bool", "float")
_TABLES = ("params", "let", "repeat", "tensors", "constraints", "variants", "mount", "config", "evidence", "forward")
_TOP = ("spec", "name", "summary", "dtype", *_TABLES)


def parse_spec(text: str, *, resolve: Resolve | None = None, source: str = "") -> Spec:
    """The spec in `text`. `resolve` finds the specs that it mounts; errors call the text `source`.

    Raises CorruptFileError (with line and key), LimitError, or UnsupportedError for a newer version of the language.
    """
    return SpecReader(text, resolve, source).spec()


class SpecReader(Rows):
    """Reads one spec. Each method reads a part, and is named after what it returns."""

    def __init__(self, text: str, resolve: Resolve | None, source: str) -> None:
        super().__init__(text)
        self.resolve, self.source = resolve, source
        self.dtypes: frozenset[str] | None = None

    def spec(self) -> Spec:
        version = self.document.get("spec")
        if version != VERSION or isinstance(version, bool):
            if isinstance(version, int) and version > VERSION:
                raise UnsupportedError(f"spec version {version} is newer than {VERSION}", hint=UPGRADE)
            self.fail(["spec"], f"expected {VERSION}, the language's version", "is this an architecture spec?")
        top = self.table(self.document, (), _TOP)
        name = self.text(top.get("name", ""), ["name"])
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            self.fail(["name"], "expected a name of letters, digits, '_', '.' and '-'")
        if "dtype" in top:
            self.dtypes = self.dtype_set(top["dtype"], ["dtype"])
        variants, rules, constraints = self.variants()
        params = dict(self.params())
        if variants:
            if VARIANT in params:
                self.fail(["params", VARIANT], "[variants] makes a param of this name")
            params[VARIANT] = Param(VARIANT, "str", literal=next(iter(variants)), choices=tuple(variants))
        spec = Spec(
            name=name,
            summary=self.text(top.get("summary", ""), ["summary"]),
            params=params,
            lets={key: self.formula(value, path) for key, value, path in self.rows("let")},
            loops={key: self.loop(key, value, path) for key, value, path in self.rows("repeat")},
            rules=(*self.rules(("tensors",), top.get("tensors", {})), *rules),
            constraints=(*self.constraints(("constraints",), top.get("constraints", {})), *constraints),
            variants=variants,
            config=read_config(self, self.document.get("config", {})),
            yields_to=self.evidence("yields_to"),
            mistaken_for=self.evidence("mistaken_for"),
            forward=self.forward(params),
            source=self.source,
        )
        return check_names(self.mounts(spec), self.place)

    def rows(self, table: str) -> Iterator[tuple[str, Toml, tuple[str, str]]]:
        """(name, value, path) of each row in a table whose keys are names that the spec defines."""
        for key, value in self.table(self.document.get(table, {}), [table]).items():
            path = (table, key)
            if not is_name(key):
                self.fail(path, "expected a name of letters, digits and '_', and no word of the language")
            yield key, value, path

    def params(self) -> Iterator[tuple[str, Param]]:
        for key, value, path in self.rows("params"):
            yield key, self.param(key, value, path)

    def param(self, name: str, value: Toml, path: Sequence[str]) -> Param:
        if isinstance(value, str):
            value = {"type": value}
        allowed = ("type", "default", "optional", "choices", "aliases", "summary")
        row = self.table(value, path, allowed)
        kind = self.text(row.get("type", ""), path)
        if kind not in _TYPES:
            near = get_close_matches(kind, _TYPES, 1)
            self.fail(
                path, f"no type {kind!r}", f"did you mean {near[0]!r}?" if near else f"one of {', '.join(_TYPES)}"
            )
        choices = self.choices(row["choices"], kind, path) if "choices" in row else None
        default, literal = self.default(row.get("default"), kind, path)
        if choices and literal is not None and literal not in choices:
            self.fail(path, f"the default {literal!r} is none of the choices")
        return Param(
            name,
            kind,
            default,
            literal,  # type: ignore[arg-type]
            self.flag(row.get("optional", False), path),
            (bool(literal), not literal) if kind == "bool" else choices,
            self.texts(row.get("aliases", []), path),
            self.text(row.get("summary", ""), path),
        )

    def choices(self, value: Toml, kind: str, path: Sequence[str]) -> tuple[int | str, ...]:
        if kind not in ("int", "str"):
            self.fail(path, f"choices are for int and str, not {kind}")
        if not isinstance(value, list) or not value or not all(type(item).__name__ == kind for item in value):
            self.fail(path, f"choices must be a list of {kind} values")
        if len(value) > 64:
            raise LimitError(f"{self.place(path)}: more than 64 choices")
        return tuple(value)

    def default(self, value: Toml, kind: str, path: Sequence[str]) -> tuple[Formula | None, Toml]:
        """A default as (expression, None) or (None, plain value)."""
        if value is None:
            return None, None
        if isinstance(value, str) and kind not in ("str", "strs"):
            return self.formula(value, path), None
        items = value if isinstance(value, list) else [value]
        item_type = kind.removesuffix("s")
        fitting = (item_type,) if item_type in ("str", "bool") else (item_type, "int")  # an integer is a float, too
        is_list = isinstance(value, list)
        if is_list != (kind in ("ints", "strs")) or any(type(item).__name__ not in fitting for item in items):
            self.fail(path, f"the default is not of type {kind}")
        return None, value

    def loop(self, name: str, value: Toml, path: Sequence[str]) -> Loop:
        if isinstance(value, list):
            return Loop(name, self.formula(_list_text(value), path))
        if not isinstance(value, str):
            return Loop(name, self.formula(value, path))
        parts = [self.formula(part, path) for part in self.at(path, split_range, value)]
        if len(parts) > 3:
            self.fail(path, "expected a count, start:stop or start:stop:step")
        if len(parts) == 1:
            return Loop(name, stop=parts[0])
        return Loop(name, start=parts[0], stop=parts[1], step=parts[2] if len(parts) == 3 else None)

    def rules(self, path: tuple[str, ...], value: Toml, when: Formula | None = None) -> Iterator[TensorRule]:
        for name, row in self.table(value, path).items():
            for entry in row if isinstance(row, list) else [row]:
                yield self.rule(name, entry, (*path, name), when)

    def rule(self, name: str, value: Toml, path: tuple[str, ...], when: Formula | None) -> TensorRule:
        if isinstance(value, str):
            value = {"shape": value}
        row = self.table(value, path, ("shape", "optional", "tied", "dtype", "when"))
        if "shape" not in row:
            self.fail(path, "a tensor needs a shape")
        own = self.formula(row["when"], path) if "when" in row else None
        dimensions = self.at(path, split_shape, self.text(row["shape"], path))
        return TensorRule(
            name=self.template(name, path),
            shape=tuple(self.formula(dimension, path) for dimension in dimensions),
            optional=self.flag(row.get("optional", False), path),
            tie=self.tie(row["tied"], path) if "tied" in row else None,
            dtypes=self.dtype_set(row["dtype"], path) if "dtype" in row else self.dtypes,
            when=both(when, own),
            where=self.place(path),
        )

    def tie(self, value: Toml, path: Sequence[str]) -> Tie:
        if isinstance(value, str):
            value = {"to": value}
        row = self.table(value, path, ("to", "when"))
        when = self.formula(row["when"], path) if "when" in row else None
        return Tie(self.template(self.text(row.get("to"), path), path), when)

    def dtype_set(self, value: Toml, path: Sequence[str]) -> frozenset[str]:
        words = [word for text in self.texts(value, path) for word in text.split()]
        kinds = {dtype.kind for dtype in DTYPES.values()}
        for word in words:
            if word not in DTYPES and word not in kinds:
                near = get_close_matches(word, [*DTYPES, *kinds], 1)
                self.fail(path, f"no element type {word!r}", f"did you mean {near[0]!r}?" if near else None)
        return frozenset(dtype.name for dtype in DTYPES.values() if dtype.name in words or dtype.kind in words)

    def constraints(self, path: tuple[str, ...], value: Toml, when: Formula | None = None) -> Iterator[Constraint]:
        for name, row in self.table(value, path).items():
            condition = self.formula(row, (*path, name))
            if when is not None:
                condition = when.negated().joined("or", condition)
            yield Constraint(name, condition)

    def variants(self) -> tuple[dict[str, str], list[TensorRule], list[Constraint]]:
        """Summaries of the variants by name, and the rules and constraints of all variants with their conditions."""
        summaries: dict[str, str] = {}
        rules: list[TensorRule] = []
        constraints: list[Constraint] = []
        for name, value in self.table(self.document.get("variants", {}), ["variants"]).items():
            path = ("variants", name)
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                self.fail(path, "expected a name of letters, digits, '_', '.' and '-'")
            row = self.table(value, path, ("summary", "tensors", "constraints"))
            summaries[name] = self.text(row.get("summary", ""), (*path, "summary"))
            when = formula(f"{VARIANT} == '{name}'")
            rules += self.rules((*path, "tensors"), row.get("tensors", {}), when)
            constraints += self.constraints((*path, "constraints"), row.get("constraints", {}), when)
        if len(summaries) > 64:
            raise LimitError("more than 64 variants")
        return summaries, rules, constraints

    def evidence(self, key: str) -> tuple[str, ...]:
        row = self.table(self.document.get("evidence", {}), ["evidence"], ("yields_to", "mistaken_for"))
        return self.texts(row.get(key, []), ["evidence", key])

    def forward(self, params: Mapping[str, Param]) -> Recipe | None:
        if "forward" not in self.document:
            return None
        lets = self.table(self.document.get("let", {}), ["let"])
        return RecipeReader(self).recipe(self.document["forward"], [*params, *lets])

    def mounts(self, spec: Spec) -> Spec:
        inner: list[Spec] = []
        for alias, value, path in self.rows("mount"):
            row = self.table(value, path, ("use", "prefix", "set", "when", "dots", "config"))
            use = self.text(row.get("use"), path)
            if self.resolve is None:
                self.fail(path, f"cannot find {use!r} from here")
            given = self.table(row.get("set", {}), (*path, "set"))
            inner.append(self.at(path, self.resolve, use))
            spec = mounted(
                spec,
                alias,
                inner[-1],
                Place(
                    self.template(self.text(row.get("prefix", ""), path), path),
                    self.formula(row["when"], path) if "when" in row else None,
                    self.flag(row.get("dots", True), path),
                    self.texts(row.get("config", []), path),
                ),
                {key: self.formula(item, (*path, "set", key)) for key, item in given.items()},
                partial(self.fail, path),
            )
        return replace(spec, digest=_digest(self.document, inner))


def _digest(document: Mapping[str, Toml], mounts: Sequence[Spec]) -> str:
    content = json.dumps([document, [spec.digest for spec in mounts]], sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _list_text(values: Sequence[Toml]) -> str:
    """A TOML list of integers and strings as an expression."""
    return f"[{', '.join(json.dumps(value) if isinstance(value, str) else str(value) for value in values)}]"
