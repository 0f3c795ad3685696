"""Reads params that are stated outside of the tensors: in metadata, a config.json, ``--set``, or an arch note.

Each of these becomes a `Source` of typed values. A stated value that the param cannot have is a `param-conflict`.
Where a file has only strings (a safetensors file that others wrote), they are read as JSON: ``"[512, 256]"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.evaluate import Budget
from ckptconv.arch.expressions import MAX_INTEGER
from ckptconv.arch.operations import EvaluationError, Value, known_integer
from ckptconv.arch.polynomial import UndeterminedError
from ckptconv.arch.scope import MAX_ELEMENTS
from ckptconv.arch.statements import CONFIG, MAX_TEXT, Statement, root_statement
from ckptconv.core import strict_json
from ckptconv.core.metadata import MetaNode, NumpyArray, NumpyScalar
from ckptconv.core.report import Finding
from ckptconv.errors import LimitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.spec import ConfigParam, Param, ParamValue, Spec


@dataclass(frozen=True, slots=True)
class Source:
    """Values that one source states.

    name:   what it is called ("metadata", "config.json", "--set").
    firm:   whether it is the user's own word, which is never outvoted.
    places: param → where its value is in the loaded file, as a Python expression.
    """

    name: str
    values: Mapping[str, ParamValue] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    firm: bool = False
    places: Mapping[str, str] = field(default_factory=dict)


def from_metadata(spec: Spec, metadata: Mapping[object, MetaNode]) -> Source:
    """The params that a checkpoint's metadata states at its root."""
    return from_statement(spec, root_statement(metadata))


def from_statement(spec: Spec, statement: Statement) -> Source:
    """The params that one place in a checkpoint's metadata states, under their names or aliases.

    A mounted param ``text.width`` may be that key, or ``metadata["text"]["width"]``.
    """
    values: dict[str, ParamValue] = {}
    places: dict[str, str] = {}
    findings: list[Finding] = []
    for param in spec.params.values():
        stated = _find_stated(param, statement.values)
        if stated is None or (stated[1] is None and not param.required):
            continue
        key, node = stated
        if key in statement.values:
            places[param.name] = statement.place(key)
        try:
            values[param.name] = _read_value(param, node)
        except ValueError as error:
            findings.append(conflict(param.name, statement.name, f"{key} is {_short(node)}", str(error)))
    return Source(statement.name, values, tuple(findings), places=places)


def _find_stated(param: Param, metadata: Mapping[object, MetaNode]) -> tuple[str, MetaNode] | None:
    """The key under which the metadata states a param, and its value; None if it does not."""
    for key in (param.name, *param.aliases):
        if key in metadata:
            return key, metadata[key]
    node: MetaNode = metadata
    for part in param.name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return param.name, node


def from_config(spec: Spec, config: Mapping[str, object]) -> Source:
    """The params that a Hugging Face configuration states, by the spec's ``[config]``.

    A key that is absent or null states nothing, unless the spec says what that means; an expression over it has no
    value.
    """
    scope = _ConfigScope(_with_absent_keys(spec.config.defaults, config))
    values: dict[str, ParamValue] = {}
    findings: list[Finding] = []
    for param, rule in spec.config.params.items():
        try:
            values[param] = _read_value(spec.params[param], _config_value(rule, scope))
        except (UndeterminedError, EvaluationError):
            continue
        except ValueError as error:
            findings.append(conflict(param, CONFIG, rule.each[0].text, str(error)))
    return Source(CONFIG, values, tuple(findings))


def is_for(spec: Spec, config: Mapping[str, object]) -> bool:
    """Whether a Hugging Face configuration of the spec's classes may be of the spec: no condition is false."""
    scope = _ConfigScope(_with_absent_keys(spec.config.defaults, config))
    for condition in spec.config.when:
        with suppress(UndeterminedError, EvaluationError):
            if condition(scope) is False:
                return False
    return True


def _with_absent_keys(defaults: Mapping[str, object], config: Mapping[str, object]) -> dict[str, object]:
    """A configuration with the meaning of keys that are absent or null."""
    return {**defaults, **{key: value for key, value in config.items() if value is not None}}


def _config_value(rule: ConfigParam, scope: _ConfigScope) -> Value:
    """What a configuration states for a param. Raises UndeterminedError or EvaluationError if it states nothing."""
    scope = scope.part(rule) if rule.parts else scope
    if rule.stop is None:
        return _first_value(rule.each, scope)
    items: list[Value] = []
    turns = known_integer(rule.stop(scope))
    if turns > MAX_ELEMENTS:
        raise LimitError(f"{CONFIG}: a loop of more than {MAX_ELEMENTS} turns")
    for turn in range(turns):
        value = _first_value(rule.each, scope.in_turn({rule.loop: turn}))
        items += value if isinstance(value, list) else [value]
        if len(items) > MAX_ELEMENTS:
            raise LimitError(f"{CONFIG}: a list of more than {MAX_ELEMENTS} items")
    return items


def _first_value(formulas: Sequence[Formula], scope: _ConfigScope) -> Value:
    for formula in formulas:
        with suppress(UndeterminedError, EvaluationError):
            return formula(scope)
    raise UndeterminedError


class _ConfigScope:
    """A scope whose names are the keys of a configuration; nested keys have dots."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.config = config
        self.loops: Mapping[str, int] = {}
        self.budget = Budget()

    def in_turn(self, loops: Mapping[str, int]) -> _ConfigScope:
        """The scope in one turn of a loop, whose variable hides a key of the same name."""
        result = _ConfigScope(self.config)
        result.loops, result.budget = loops, self.budget
        return result

    def part(self, rule: ConfigParam) -> _ConfigScope:
        """The scope of the part of the configuration that describes a mounted spec. Raises UndeterminedError."""
        node = self.config
        for keys in rule.parts:
            found = (node if key == "." else node.get(key) for key in keys)
            node = next((inner for inner in found if isinstance(inner, Mapping)), {})
        if not node:
            raise UndeterminedError
        result = _ConfigScope(_with_absent_keys(rule.defaults, node))
        result.budget = self.budget
        return result

    def lookup(self, name: str) -> Value:
        if name in self.loops:
            return self.loops[name]
        node: object = self.config
        for part in name.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise UndeterminedError
            node = node[part]
        if isinstance(node, float) and node.is_integer() and abs(node) < 2**53:
            node = int(node)  # such as a ratio of 4.0
        if isinstance(node, list) and len(node) <= MAX_ELEMENTS and all(map(_is_plain, node)):
            return node
        if isinstance(node, int) and abs(node) > MAX_INTEGER:
            raise LimitError(f"{CONFIG}: {name!r} is outside 64 bits")
        if not isinstance(node, bool | int | str):
            raise UndeterminedError
        return node


def _is_plain(item: object) -> bool:
    """Whether an item of a list is an integer, a boolean, a string or a list of integers."""
    if isinstance(item, list):
        return len(item) <= MAX_ELEMENTS and all(type(inner) is int and abs(inner) <= MAX_INTEGER for inner in item)
    return isinstance(item, str | bool) or (type(item) is int and abs(item) <= MAX_INTEGER)


def from_settings(spec: Spec, settings: Sequence[str] | Mapping[str, object]) -> Source:
    """The params that ``--set KEY=VALUE`` options, or a mapping, give. Raises UsageError for a wrong name or value."""
    values: dict[str, ParamValue] = {}
    pairs = list(settings.items()) if isinstance(settings, Mapping) else [parse_setting(text) for text in settings]
    for key, value in pairs:
        if key not in spec.params:
            raise spec.lacks(key)
        try:
            values[key] = _read_value(spec.params[key], value)
        except ValueError as error:
            example = _EXAMPLES[spec.params[key].type]
            raise UsageError(f"--set {key}={value}: {error}", hint=f"such as --set {key}={example}") from None
    return Source("--set", values, firm=True)


def parse_setting(text: str) -> tuple[str, str]:
    """The key and value of ``--set K=V``. Raises UsageError for another form."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text!r} is not of the form K=V", hint="such as --set input_size=784")
    return key.strip(), value.strip()


def conflict(param: str, source: str, stated: str, problem: str) -> Finding:
    """A `param-conflict`: `source` states something that cannot be."""
    return Finding("param-conflict", "error", param, f"{param}: {source} says {stated}; {problem}", problem, stated)


def _read_value(param: Param, node: object) -> ParamValue:
    """`node` as a value of the param's type. Strings are read as JSON, except for ``str``. Raises ValueError."""
    value = _READERS[param.type](node)
    if param.choices is not None and param.type != "bool" and value not in param.choices:
        raise ValueError(f"expected one of {', '.join(str(choice) for choice in param.choices)}")
    return value


def _json_value(node: object, *expected: type) -> object:
    """A string's JSON value, if that has an expected type; anything else as it is."""
    if not isinstance(node, str) or len(node) > MAX_TEXT:
        return node
    try:
        value = strict_json.loads(node)
    except ValueError:
        value = {"True": True, "False": False}.get(node, node)
    return value if isinstance(value, expected) else node


def _int(node: object) -> int:
    node = _json_value(_from_numpy(node), int, float)
    if isinstance(node, float) and node.is_integer() and abs(node) < 2**53:
        node = int(node)
    if not isinstance(node, int) or isinstance(node, bool):
        raise ValueError("expected an integer")
    if not 0 <= node <= MAX_INTEGER:
        raise ValueError("expected an integer from 0 to 2^63 - 1")
    return int(node)


def _ints(node: object) -> list[int]:
    return [_int(item) for item in _items(node, "integers")]


def _str(node: object) -> str:
    if not isinstance(node, str):
        raise ValueError("expected a string")
    return node


def _strs(node: object) -> list[str]:
    return [_str(item) for item in _items(node, "strings")]


def _bool(node: object) -> bool:
    node = _json_value(_from_numpy(node), bool)
    if isinstance(node, str) and node.lower() in ("true", "false"):
        return node.lower() == "true"
    if not isinstance(node, bool):
        raise ValueError("expected true or false")
    return node


def _float(node: object) -> float:
    node = _json_value(_from_numpy(node), float, int)
    if isinstance(node, bool) or not isinstance(node, float | int):
        raise ValueError("expected a number")
    return float(node)


def _items(node: object, what: str) -> Sequence[object]:
    node = _from_numpy(_json_value(node, list))
    if not isinstance(node, list | tuple):
        raise ValueError(f"expected a list of {what}")
    if len(node) > MAX_ELEMENTS:
        raise ValueError(f"a list of more than {MAX_ELEMENTS} items")
    return node


_READERS: dict[str, Callable[[object], ParamValue]] = {
    "int": _int,
    "ints": _ints,
    "str": _str,
    "strs": _strs,
    "bool": _bool,
    "float": _float,
}

_EXAMPLES = {
    "int": "64", "ints": "'[64, 32]'", "str": "relu", "strs": "'[\"relu\", \"tanh\"]'", "bool": "true", "float": "0.5",
}  # fmt: skip
"""An example of each type, as users type it."""


def _from_numpy(node: object) -> object:
    """A numpy integer, boolean, or one-dimensional array of integers as Python values; anything else as it is."""
    match node:
        case NumpyScalar(dtype=dtype, data=data) if dtype[1:2] in ("i", "u", "b"):
            return _number(dtype, data)
        case NumpyArray(dtype=dtype, shape=(length,), data=data) if dtype[1:2] in ("i", "u") and length:
            size = len(data) // length
            return [_number(dtype, data[start : start + size]) for start in range(0, len(data), size or 1)]
        case _:
            return node


def _number(dtype: str, data: bytes) -> int:
    value = int.from_bytes(data, "big" if dtype[0] == ">" else "little", signed=dtype[1] == "i")
    return bool(value) if dtype[1] == "b" else value


def _short(node: object) -> str:
    text = repr(node)
    return text if len(text) <= 60 else f"{text[:57]}..."
