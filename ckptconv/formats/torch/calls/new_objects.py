"""Classes whose objects a pickle may create, by NEWOBJ or ``copyreg._reconstructor``, without anything else happening.

When an object is created, compared, converted to text or destroyed, its class's code runs, on a state that the pickle
chose. In the standard library and numpy, which are installed wherever a pickle is loaded, whole families of classes run
what they are given: a ``weakref.ref`` its callback, an ``io`` stream its ``close``, a metaclass what its classes
define; ``numpy.memmap`` creates a file. So harmless classes are listed by exact name, and any other is reported. torch
has such classes too, for example a data pipe's wrapper, which loads a pickle in its state; checkpoints contain modules,
optimizers and the like. Some packages that torch depends on count as its own: sympy evaluates text. Classes of other
packages are reported as unknown.

Most harmless classes are harmless only if their state is plain values: a ``ChainMap`` asks the mappings in it,
``random.Random`` unpacks its state. Some just store any state.

A class must have its own module and name, as pickle writes them: ``weakref.ref``, imported in
``torch.nn.modules.module``, is not a class of that module.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ckptconv.formats.torch.pickle import Global, UnbuiltObject, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GONE = (
    "aifc asynchat asyncore cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib ossaudiodev "
    "pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib"
)
_LIBRARIES = frozenset(
    [*sys.stdlib_module_names, *_GONE.split(), "numpy", "pip", "setuptools", "pkg_resources", "_distutils_hack", "test",
     "filelock", "fsspec", "jinja2"]
)  # fmt: skip
"""Top-level packages that come with any release of Python, numpy, and some that come with torch."""

_POLYNOMIALS = ("Chebyshev", "Hermite", "Laguerre", "Legendre", "Polynomial")

KNOWN = frozenset(
    f"{module}.{name}" for module, names in {
        "argparse": "Namespace",
        "builtins": "bool bytearray bytes complex dict float frozenset int list object set str tuple",
        "collections": "ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque",
        "configparser": "BasicInterpolation ConfigParser ConverterMapping ExtendedInterpolation Interpolation "
        "LegacyInterpolation RawConfigParser SafeConfigParser SectionProxy",
        "contextlib": "nullcontext", "dataclasses": "Field _KW_ONLY_TYPE _MISSING_TYPE",
        "datetime": "date datetime time timedelta timezone", "decimal": "Decimal", "fractions": "Fraction",
        "functools": "partial",
        "ipaddress": "IPv4Address IPv4Interface IPv4Network IPv6Address IPv6Interface IPv6Network",
        "numpy": "bool_ bytes_ float32 float64 int32 int64 poly1d str_ vectorize",
        **{f"numpy.polynomial.{name.lower()}": name for name in _POLYNOMIALS},
        "numpy.polynomial.hermite_e": "HermiteE",
        "numpy.random.bit_generator": "SeedSequence",
        "optparse": "Values",
        "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        "random": "Random", "string": "Template", "torch": "ScriptObject Size Tensor device dtype",
        "torch._dynamo.decorators": "_DimRange", "torch.distributed._mesh_layout": "_FlatLayout _MeshLayout",
        "torch.distributed.remote_device": "_remote_device",
        "torch.torch_version": "TorchVersion",
        "torch.utils.data.dataloader": "DataLoader",
        "types": "SimpleNamespace", "urllib.parse": "ParseResult SplitResult", "uuid": "SafeUUID UUID",
    }.items() for name in names.split()
)  # fmt: skip
"""Classes of these whose objects can be created without side effects, whatever their state."""

_TORCH = (
    "torch._C._distributed.", "torch.amp.", "torch.ao.", "torch.cuda.amp.", "torch.distributed._shard.metadata.",
    "torch.distributed._shard.sharded_tensor.", "torch.distributed._shard.sharding_spec.", "torch.distributed._tensor.",
    "torch.distributed.checkpoint.metadata.", "torch.distributed.device_mesh.", "torch.distributed.fsdp.api.",
    "torch.distributed.tensor.", "torch.distributions.", "torch.nn.", "torch.optim.", "torch.quantization.",
    "torch.storage.", "torch.utils.data.dataset.", "torch.utils.data.distributed.", "torch.utils.data.sampler.",
    "torch.utils.hooks.",
)  # fmt: skip
"""Modules with torch classes whose objects are in checkpoints."""

_COMPARED_BY_IDENTITY = ("torch.nn.", "torch.optim.")
"""Modules whose classes are hashed and compared by identity."""

_IMPORTED_ELSEWHERE = ("ABCMeta", "EnumMeta", "EnumType", "KeyedRef", "ReferenceType", "WeakMethod", "ref", "type")
"""Classes that run something as soon as an object is created, and that modules import from elsewhere under these names.
"""

_METHOD_CALLERS = ("Buffer", "PackedSequence", "Parameter", "Storage", "Tensor", "TorchVersion")
"""Suffixes of torch's classes that call methods of the values they are made from."""

_NAMES = ("Dummy", "Float", "Str", "Symbol", "Wild")
"""sympy classes that take text literally. All others evaluate it."""

_STORE_ARGUMENTS = ("argparse.Namespace", "functools.partial")
"""Classes that store their arguments without looking at them."""

_STORE_ANY_STATE = frozenset([
    *_STORE_ARGUMENTS, "contextlib.nullcontext", "dataclasses.Field", "numpy.vectorize", "optparse.Values",
    "types.SimpleNamespace",
])  # fmt: skip
"""Library classes that store any state, and do not use what is in it when they are hashed or compared."""

_PARSERS = frozenset(["builtins.dict", "builtins.str", "collections.OrderedDict", "re._compile"])
"""What configparser's objects contain besides one another."""

_CALL_FOR_MISSING_KEYS = ("collections.ChainMap", "collections.defaultdict")
"""Classes that call something, or ask other mappings, for a missing key. An unbuilt defaultdict has an unknown factory.
"""

_HANDLE = "torch.utils.hooks.RemovableHandle"

SCRIPTED = "torch.ScriptObject"
_PACKED = tuple(f"__torch__.torch.classes.{name}." for name in ["mkldnn", "quantized", "rnn", "sparse", "xnnpack"])
"""torch's own C++ classes whose objects are in modules: packed weights, of recurrent layers too."""

_CONTAINERS = frozenset(f"builtins.{name}" for name in ["dict", "frozenset", "list", "set", "tuple"])
_VALUES = frozenset(f"builtins.{name}" for name in ["bytes", "float", "int", "str"])
ITER = "builtins.iter"
_DICT, _OBJECT = "builtins.dict", "builtins.object"

MOST = 100
"""Values among arguments that are checked; honest calls have fewer."""

MOST_OF_STATE = 10_000
"""Values in a library object's state that are checked; a random generator has a few hundred."""


def only_makes(cls: Global, args: tuple[Value, ...], kwargs: dict[str, Value]) -> bool:
    """Whether ``cls.__new__`` only creates an object. Classes of unknown packages get the benefit of the doubt."""
    if not is_known(cls):
        return False
    if is_of_torch(cls) and cls.name.endswith(_METHOD_CALLERS):
        return not kwargs and not holds_classes_or_objects(args)
    if cls.module.partition(".")[0] == "sympy" and cls.name not in _NAMES:
        return not any(isinstance(value, (str, Global)) for value in leaves(args, MOST))
    if not is_of_library(cls) or str(cls) in _STORE_ARGUMENTS:
        return True
    return not kwargs and not holds_classes_or_objects(args)


def only_reconstructs(args: tuple[Value, ...]) -> bool:
    """The same for ``copyreg._reconstructor(class, base, state)``, which calls the base with the state."""
    if len(args) != 3 or type(args[0]) is not Global or not is_known(args[0]):
        return False
    base, state = str(args[1]), args[2]
    if base in _VALUES:
        return not holds_classes_or_objects((state,))
    if base == _DICT and not isinstance(state, dict):  # pairs, which it takes apart
        return isinstance(state, (list, tuple)) and not any(isinstance(item, UnbuiltObject) for item in state)
    return base == _OBJECT or (base in _CONTAINERS and not isinstance(state, UnbuiltObject))


def only_keeps(cls: str, state: Value) -> bool:
    """Whether an object of a class only stores its state, and calls nothing in it, then or later."""
    owner = named(cls)
    if cls == _HANDLE:  # makes weak references to dicts in its state
        parts = state if isinstance(state, tuple) else (state,)
        return not any(isinstance(value, UnbuiltObject) for part in parts for value in (part, *_listed(part)))
    if cls == ITER:
        return type(state) is int
    if cls == SCRIPTED:
        return isinstance(state, tuple) and isinstance(state[-1:][0], str) and state[-1].startswith(_PACKED)
    if isinstance(state, UnbuiltObject):
        state_class = named(state.name)
        return not (is_of_library(state_class) or is_of_torch(state_class)) or not _holds_any(state)
    if is_of_torch(owner):  # a recurrent layer looks up keys that may be missing
        return not any(
            isinstance(value, UnbuiltObject) and value.name in _CALL_FOR_MISSING_KEYS
            for value in leaves((state,), MOST_OF_STATE)
        )
    if not is_of_library(owner) or cls in _STORE_ANY_STATE:
        return True
    return all(
        _belongs(owner, value)
        for value in leaves((state,), MOST_OF_STATE)
        if isinstance(value, (Global, UnbuiltObject))
    )


def only_hashes(key: Value) -> bool:
    """Whether a key can be hashed and compared with others without calling methods of its contents, which torch's
    distributions would call. A key of an unknown class is judged by its parts.
    """
    waiting, left = [key], MOST_OF_STATE
    while waiting:
        for value in leaves((waiting.pop(),), MOST):
            left -= 1
            if not isinstance(value, UnbuiltObject):
                continue
            by_torch = is_of_torch(named(value.name))
            if by_torch and not f"{value.name}.".startswith(_COMPARED_BY_IDENTITY) and _holds_any(value):
                return False
            if left < 0:
                return False
            if not by_torch:
                waiting.append((value.args, value.state, value.items, value.pairs))
    return True


def holds_classes_or_objects(values: tuple[Value, ...]) -> bool:
    """Whether there are classes or objects anywhere in the values, or too many values to check."""
    return any(isinstance(value, (Global, UnbuiltObject)) for value in leaves(values, MOST))


def holds_objects(values: tuple[Value, ...]) -> bool:
    """The same for objects only, not counting tensors."""
    return any(
        value is _TOO_MANY or (isinstance(value, UnbuiltObject) and value.how != "unread")
        for value in leaves(values, MOST)
    )


def _holds_any(obj: UnbuiltObject) -> bool:
    return any(
        isinstance(value, (Global, UnbuiltObject))
        for value in leaves((obj.args, obj.kwargs, obj.state, obj.items, obj.pairs), MOST_OF_STATE)
    )


_TOO_MANY = Global("", "")


def leaves(values: tuple[Value, ...], most: int) -> Iterator[Value]:
    """The values inside containers, at any depth, but not those inside objects. Ends with `_TOO_MANY` if there are more
    than `most`.
    """
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        most -= 1
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            if len(value) > most:
                yield _TOO_MANY
                return
            waiting.extend(value)
            if isinstance(value, dict):
                waiting.extend(value.values())
        elif most < 0:
            yield _TOO_MANY
            return
        else:
            yield value


def _belongs(owner: Global, value: Global | UnbuiltObject) -> bool:
    """Whether an object in a library object's state is one that its class always has there."""
    name = value.name if isinstance(value, UnbuiltObject) else str(value)
    if owner.module == "configparser":
        return name.startswith("configparser.") or name in _PARSERS
    return owner.module.startswith("numpy.random") and name.startswith("numpy.random.")


def _listed(value: Value) -> Iterable[Value]:
    return value if isinstance(value, (list, tuple)) else ()


def named(cls: str) -> Global:
    """A dotted class name as a Global."""
    module, _, name = cls.rpartition(".")
    return Global(module, name)


def is_known(cls: Global) -> bool:
    """Whether a class is known to be harmless, or from an unknown package."""
    *outer, last = cls.name.split(".")
    if last in _IMPORTED_ELSEWHERE or any(map(is_dunder, (*outer, last))) or any(part[:1].islower() for part in outer):
        return False
    if is_of_torch(cls) and str(cls) not in KNOWN:
        return f"{cls.module}.".startswith(_TORCH)
    return str(cls) in KNOWN or not is_of_library(cls)


def is_dunder(name: str) -> bool:
    """Whether a name is one of Python's special attributes, such as a class's class, or a function's globals."""
    return name[:2] == "__" == name[-2:]


def is_of_torch(cls: Global) -> bool:
    """Whether a class is torch's."""
    return cls.module.partition(".")[0] == "torch"


def is_of_library(cls: Global) -> bool:
    """Whether a class comes with Python, numpy or torch. A module named ``test`` is somebody's script."""
    return cls.module.partition(".")[0] in _LIBRARIES and cls.module != "test"
