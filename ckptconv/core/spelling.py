"""Spells the metadata tree as JSON and reads it back, without loss.

Values that JSON has are spelled as they are. Everything else is an object with one key that starts with ``$``:

    {"$int": "0x1f…"}            an int outside 64 bits
    {"$float": "7ff8000000000000"}   NaN and the infinities: the eight bytes, big-endian, in hexadecimal
    {"$complex": [re, im]}       {"$bytes": base64}          {"$bytearray": base64}
    {"$tuple": […]}              {"$set": […]}               {"$frozenset": […]}
    {"$dict": [[key, value]…]}   a dict with a key that is not a string or starts with "$"
    {"$OrderedDict": [[k, v]…]}  {"$Counter": [[k, v]…]}     {"$defaultdict": [factory, [[k, v]…]]}
    {"$torch.Size": [int…]}      {"$torch.dtype": "float32"} and so for device, layout, qscheme, memory_format
    {"$numpy.scalar": [dtype, base64]}
    {"$numpy.array": [dtype, shape, order, base64]}
    {"$tensor": name}            a tensor of this file
    {"$stored": [name, value]}   bytes or an array kept in a U8 tensor of this file; the value is spelled without them
    {"$state_dict": {prefix?, type?, plain?, versions?}}     the model's tensors
    {"$opaque": {class, how, args?, kwargs?, state?, items?, pairs?}}

Sets are sorted by their spelling, so that equal trees have equal spellings.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, defaultdict
from math import isfinite, prod
from struct import error as struct_error
from struct import pack, unpack
from typing import TYPE_CHECKING, Any, cast, get_args

from ckptconv.core.collisions import Collisions, check_digits
from ckptconv.core.metadata import (
    FACTORIES,
    FACTORY_NAMES,
    How,
    MetaNode,
    NumpyArray,
    NumpyScalar,
    Opaque,
    StateDict,
    Stored,
    TensorRef,
    TorchSize,
    TorchValue,
    hashable,
    walk,
)
from ckptconv.core.strict_json import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NUMPY_DTYPE = re.compile(r"[<>|][biufcSUVmM][0-9]{1,9}")
_TORCH_NAME = re.compile(r"[A-Za-z_0-9]{1,64}(:[0-9]{1,9})?")

Json = Any  # what json.loads returns: checked node by node in `from_json`


def dumps(document: Json) -> str:
    """Compact ASCII JSON. Lone surrogates are escaped, so that the text is always valid UTF-8."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def canonical(node: MetaNode) -> str:
    """A text that is the same for all trees that are equal in value and type; plain dicts have no order."""
    return json.dumps(to_json(node, sort=True), ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def is_utf8(text: str) -> bool:
    """Whether the text can be encoded in UTF-8: it has no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def same(a: MetaNode, b: MetaNode) -> bool:
    """Whether two trees are equal in value *and* in type: 3 is not 3.0, -0.0 is not 0.0, NaN is NaN."""
    return canonical(a) == canonical(b)


def to_json(node: MetaNode, *, sort: bool = False) -> Json:  # noqa: C901 (one line for each kind of node)
    """The node as JSON data. With `sort`, plain dicts are sorted by spelling. Raises TypeError if it is not a node."""

    def again(child: MetaNode) -> Json:
        return to_json(child, sort=sort)

    def pairs(items: Iterable[tuple[MetaNode, MetaNode]]) -> list[list[Json]]:
        return [[again(key), again(value)] for key, value in items]

    match node:
        case None | bool() | str():
            return node
        case int():
            return node if -(2**63) <= node < 2**64 else {"$int": hex(node)}
        case float():
            return node if isfinite(node) else {"$float": pack(">d", node).hex()}
        case complex():
            return {"$complex": [again(node.real), again(node.imag)]}
        case bytes():
            return {"$bytes": b64encode(node).decode("ascii")}
        case bytearray():
            return {"$bytearray": b64encode(node).decode("ascii")}
        case OrderedDict():
            return {"$OrderedDict": pairs(node.items())}
        case Counter():
            return {"$Counter": _ordered(pairs(node.items()), sort)}
        case defaultdict():
            factory = None if node.default_factory is None else FACTORY_NAMES[node.default_factory]
            return {"$defaultdict": [factory, _ordered(pairs(node.items()), sort)]}
        case dict():
            if all(isinstance(key, str) and not key.startswith("$") for key in node):
                keys = sorted(node) if sort else node
                return {key: again(node[key]) for key in keys}
            return {"$dict": _ordered(pairs(node.items()), sort)}
        case list():
            return [again(child) for child in node]
        case TorchSize():
            return {"$torch.Size": [again(n) for n in node]}
        case tuple():
            return {"$tuple": [again(child) for child in node]}
        case frozenset():
            return {"$frozenset": _ordered([again(child) for child in node], True)}
        case set():
            return {"$set": _ordered([again(child) for child in node], True)}
        case TorchValue(kind, name):
            return {f"$torch.{kind}": name}
        case NumpyScalar(dtype, data):
            return {"$numpy.scalar": [dtype, b64encode(data).decode("ascii")]}
        case NumpyArray(dtype, shape, data, fortran):
            return {"$numpy.array": [dtype, list(shape), "F" if fortran else "C", b64encode(data).decode("ascii")]}
        case TensorRef(name):
            return {"$tensor": name}
        case Stored(name, like):
            return {"$stored": [name, again(like)]}
        case StateDict():
            return {"$state_dict": _state_dict_entry(node, again)}
        case Opaque():
            return {"$opaque": _opaque_entry(node, again)}
        case _:
            raise TypeError(f"{type(node).__name__} is not plain data")


def _state_dict_entry(node: StateDict, again: Callable[[MetaNode], Json]) -> dict[str, Json]:
    entry = {
        "prefix": node.prefix,
        "type": "" if node.container == "OrderedDict" else node.container,
        "plain": [[position, key, again(value)] for position, key, value in node.plain],
        "versions": None if node.versions is None else again(node.versions),
    }
    return {key: value for key, value in entry.items() if value not in (None, "", [])}


def _opaque_entry(node: Opaque, again: Callable[[MetaNode], Json]) -> dict[str, Json]:
    entry = {
        "class": node.name,
        "how": node.how,
        "args": [again(child) for child in node.args],
        "kwargs": {key: again(child) for key, child in node.kwargs.items()},
        "state": None if node.state is None else again(node.state),
        "items": [again(child) for child in node.items],
        "pairs": [[again(key), again(value)] for key, value in node.pairs],
    }
    return {key: value for key, value in entry.items() if value not in (None, [], {})}


def _ordered(entries: list[Json], sort: bool) -> list[Json]:
    return sorted(entries, key=dumps) if sort else entries


def from_json(document: Json) -> MetaNode:
    """The node that `to_json` spelled. Raises ValueError on anything that it does not write."""
    match document:
        case None | bool() | str() | int() | float():
            return document
        case list():
            return [from_json(child) for child in document]
        case dict():
            tag = next(iter(document), "")
            if not tag.startswith("$"):
                if any(key.startswith("$") for key in document):
                    raise ValueError("a '$' key beside others")
                return {key: from_json(value) for key, value in document.items()}
            decode = _DECODERS.get(tag)
            if decode is None or len(document) != 1:
                raise ValueError(f"unknown spelling {tag!r}")
            try:
                return decode(document[tag])
            except (TypeError, KeyError, AttributeError, struct_error) as error:
                raise ValueError(f"malformed {tag!r}") from error
    raise ValueError(f"{type(document).__name__} is not JSON")


def _pairs(items: Json) -> list[tuple[Any, MetaNode]]:
    pairs = [(_key(key), from_json(value)) for key, value in items]
    check_digits(key for key, _ in pairs)
    Collisions().add(pairs, (key for key, _ in pairs))
    return pairs


def _members(items: Json) -> list[Any]:
    members = [_key(item) for item in items]
    Collisions().add(members, members)
    return members


def _key(document: Json) -> Any:
    """A key of a dict, or a member of a set. It cannot contain `Stored` or `StateDict`, which are replaced later."""
    node = from_json(document)
    return node if type(node) in (str, int) else hashable(without(node, Stored, StateDict))


def without(node: MetaNode, *kinds: type) -> MetaNode:
    """The node itself. Raises ValueError if it contains a node of these kinds."""
    found = next((part for _, part in walk(node) if isinstance(part, kinds)), None)
    if found is not None:
        raise ValueError(f"a {type(found).__name__} where none can stand")
    return node


def module_versions(document: Json) -> MetaNode:
    """Read module versions (``_metadata``), which cannot contain tensors."""
    return without(from_json(document), TensorRef, StateDict, Stored)


def _bytes(text: Json) -> bytes:
    return b64decode(text, validate=True)


def _ints(items: Json) -> tuple[int, ...]:
    if not all(type(item) is int for item in items):
        raise ValueError("not a list of ints")
    return tuple(items)


def _float(text: Json) -> float:
    return cast("float", unpack(">d", bytes.fromhex(text))[0])


def _defaultdict(parts: Json) -> MetaNode:
    factory, items = parts
    return defaultdict(None if factory is None else FACTORIES[factory], _pairs(items))


def _complex(parts: Json) -> complex:
    real, imag = (cast("float", from_json(part)) for part in parts)
    return complex(real, imag)


def numpy_nbytes(dtype: Json, shape: Json = ()) -> int:
    """The size of an array in bytes. Raises ValueError for a dtype that is not plain."""
    if not _NUMPY_DTYPE.fullmatch(as_text(dtype)) or min(_ints(shape), default=0) < 0:
        raise ValueError("not a plain numpy dtype and shape")
    return int(dtype[2:]) * (4 if dtype[1] == "U" else 1) * prod(shape)


def _numpy_scalar(parts: Json) -> NumpyScalar:
    dtype, data = parts[0], _bytes(parts[1])
    if len(data) != numpy_nbytes(dtype):
        raise ValueError("a numpy scalar of the wrong length")
    return NumpyScalar(dtype, data)


def _numpy_array(parts: Json) -> NumpyArray:
    array = _numpy_header(parts)
    if len(array.data) != numpy_nbytes(array.dtype, array.shape):
        raise ValueError("a numpy array of the wrong length")
    return array


def _numpy_header(parts: Json) -> NumpyArray:
    dtype, shape, order, data = parts
    numpy_nbytes(dtype, shape)
    return NumpyArray(dtype, _ints(shape), _bytes(data), {"C": False, "F": True}[order])


def _stored(parts: Json) -> Stored:
    name, like = parts
    array = like.get("$numpy.array")
    value = from_json(like) if array is None else _numpy_header(array)
    if not isinstance(value, (bytes, bytearray, NumpyArray)):
        raise ValueError("only bytes and arrays are stored apart")
    return Stored(as_text(name), value)


def _state_dict(entry: Json) -> StateDict:
    if unknown := entry.keys() - {"prefix", "type", "plain", "versions"}:
        raise ValueError(f"unknown keys {sorted(unknown)} in a state_dict")
    container = {"OrderedDict": "OrderedDict", "dict": "dict"}[entry.get("type", "OrderedDict")]
    plain = tuple((_ints([p])[0], as_text(key), from_json(value)) for p, key, value in entry.get("plain", ()))
    versions = module_versions(entry.get("versions"))
    return StateDict(as_text(entry.get("prefix", "")), cast("Any", container), plain, versions)


def _opaque(entry: Json) -> Opaque:
    how = {h: h for h in get_args(How)}[entry["how"]]
    return Opaque(
        as_text(entry["class"]),
        cast("Any", how),
        tuple(from_json(child) for child in entry.get("args", ())),
        {as_text(key): from_json(child) for key, child in entry.get("kwargs", {}).items()},
        from_json(entry.get("state")),
        [from_json(child) for child in entry.get("items", ())],
        [(without(from_json(key), Stored, StateDict), from_json(child)) for key, child in entry.get("pairs", ())],
    )


_DECODERS: dict[str, Callable[[Json], MetaNode]] = {
    "$int": lambda text: int(text, 16),
    "$float": _float,
    "$complex": _complex,
    "$bytes": _bytes,
    "$bytearray": lambda text: bytearray(_bytes(text)),
    "$tuple": lambda items: tuple(from_json(item) for item in items),
    "$set": lambda items: set(_members(items)),
    "$frozenset": lambda items: frozenset(_members(items)),
    "$dict": lambda items: dict(_pairs(items)),
    "$OrderedDict": lambda items: OrderedDict(_pairs(items)),
    "$Counter": lambda items: Counter(dict(_pairs(items))),
    "$defaultdict": _defaultdict,
    "$torch.Size": lambda items: TorchSize(_ints(items)),
    "$numpy.scalar": _numpy_scalar,
    "$numpy.array": _numpy_array,
    "$tensor": lambda name: TensorRef(as_text(name)),
    "$stored": _stored,
    "$state_dict": _state_dict,
    "$opaque": _opaque,
}


def _torch_value(kind: Any) -> Callable[[Json], MetaNode]:
    def named(name: Json) -> TorchValue:
        if not _TORCH_NAME.fullmatch(as_text(name)):
            raise ValueError(f"no name of a torch {kind}")
        return TorchValue(kind, name)

    return named


_DECODERS |= {
    f"$torch.{kind}": _torch_value(kind) for kind in ("dtype", "device", "layout", "qscheme", "memory_format")
}
