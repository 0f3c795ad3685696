"""New objects in a pickle, by NEWOBJ or ``copyreg._reconstructor``: of which classes they are made and no more.

What a class does when an object of it is made, compared, written as text or thrown away is code that somebody wrote: it
is asked with the state that the pickle gives. Of Python's own library and numpy, which are there wherever a pickle is
loaded, whole families run what they are handed: a ``weakref.ref`` its callback, a stream of ``io`` its ``close``, a
metaclass what its classes have; ``numpy.memmap`` makes a file. So that their classes are known by exact name, and any
other is worth an alarm. torch has some, too, such as a data pipe's wrapper, whose state is a pickle that it loads: what
checkpoints have are modules, optimizers and their like. Some packages that torch brings with it count as its own: sympy
evaluates text. Classes of other packages are told as what they are: not known here.

What is made is known with a state that is no more than values: a ``ChainMap`` asks what it holds, ``random.Random``
takes its state apart. Some keep anything.

A class has its own module and name, as pickle writes them; ``weakref.ref`` in ``torch.nn.modules.module`` is another's.
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
"""Top-level packages that come with Python, whichever release, numpy's, and some that come with torch."""

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
        "torch.torch_version": "TorchVersion",
        "torch.utils.data.dataloader": "DataLoader",
        "types": "SimpleNamespace", "urllib.parse": "ParseResult SplitResult", "uuid": "SafeUUID UUID",
    }.items() for name in names.split()
)  # fmt: skip
"""Classes of these of which an object is made and no more, whatever its state."""

_TORCH = (
    "torch._C._distributed.", "torch.amp.", "torch.ao.", "torch.cuda.amp.", "torch.distributed._shard.metadata.",
    "torch.distributed._shard.sharded_tensor.", "torch.distributed._shard.sharding_spec.", "torch.distributed._tensor.",
    "torch.distributed.checkpoint.metadata.", "torch.distributed.device_mesh.", "torch.distributed.fsdp.api.",
    "torch.distributed.tensor.", "torch.distributions.", "torch.nn.", "torch.optim.", "torch.quantization.",
    "torch.storage.", "torch.utils.data.dataset.", "torch.utils.data.distributed.", "torch.utils.data.sampler.",
    "torch.utils.hooks.",
)  # fmt: skip
"""Where torch has classes of which checkpoints have objects."""

_IDENTICAL = ("torch.nn.", "torch.optim.")
"""Where its classes are hashed and compared by identity."""

_OF_OTHERS = ("ABCMeta", "EnumMeta", "EnumType", "KeyedRef", "ReferenceType", "WeakMethod", "ref", "type")
"""What modules have from others under its own name, and what runs something as soon as an object of it is made."""

_ASKING = ("Buffer", "PackedSequence", "Parameter", "Storage", "Tensor", "TorchVersion")
"""How torch's classes end that call methods of what they are made of."""

_NAMES = ("Dummy", "Float", "Str", "Symbol", "Wild")
"""Classes of sympy's that take text for what it is. All others evaluate it."""

_KEEP = ("argparse.Namespace", "functools.partial")
"""Those that take no look at their arguments."""

_HOLD = frozenset([
    *_KEEP, "contextlib.nullcontext", "dataclasses.Field", "numpy.vectorize", "optparse.Values",
    "types.SimpleNamespace",
])  # fmt: skip
"""Those of the library that keep any state, and ask nothing of what is in it when they are hashed or compared."""

_PARSERS = frozenset(["builtins.dict", "builtins.str", "collections.OrderedDict", "re._compile"])
"""What configparser's objects hold beside one another."""

_ANSWERS = ("collections.ChainMap", "collections.defaultdict")
"""Those that call something, or ask others, for what they lack; of the latter those whose factory is somebody's own."""

_HANDLE = "torch.utils.hooks.RemovableHandle"

_SCRIPTED = "torch.ScriptObject"
_PACKED = tuple(f"__torch__.torch.classes.{name}." for name in ["mkldnn", "quantized", "sparse", "xnnpack"])
"""torch's own classes in C++ of which modules have objects: packed weights."""

_CONTAINERS = frozenset(f"builtins.{name}" for name in ["dict", "frozenset", "list", "set", "tuple"])
_VALUES = frozenset(f"builtins.{name}" for name in ["bytes", "float", "int", "str"])
ITER = "builtins.iter"
_DICT, _OBJECT = "builtins.dict", "builtins.object"

MOST = 100
"""Values among arguments that are looked at; nobody's have more."""

MOST_OF_STATE = 10_000
"""The same of the state of an object of the library's; a random generator's has some hundred."""


def only_makes(cls: Global, args: tuple[Value, ...], kwargs: dict[str, Value]) -> bool:
    """Whether a new object of `cls` is made and nothing else. What a class of somebody's own does is not known."""
    if not is_known(cls):
        return False
    if is_of_torch(cls) and cls.name.endswith(_ASKING):
        return not kwargs and not holds_things(args)
    if cls.module.partition(".")[0] == "sympy" and cls.name not in _NAMES:
        return not any(isinstance(one, (str, Global)) for one in leaves(args, MOST))
    if not is_of_library(cls) or str(cls) in _KEEP:
        return True
    return not kwargs and not holds_things(args)


def only_reconstructs(args: tuple[Value, ...]) -> bool:
    """The same of ``copyreg._reconstructor``, of a class, a base and a state: the base takes its items."""
    if len(args) != 3 or type(args[0]) is not Global or not is_known(args[0]):
        return False
    base, state = str(args[1]), args[2]
    if base in _VALUES:
        return not holds_things((state,))
    if base == _DICT and not isinstance(state, dict):  # pairs, which it takes apart
        return isinstance(state, (list, tuple)) and not any(isinstance(one, UnbuiltObject) for one in state)
    return base == _OBJECT or (base in _CONTAINERS and not isinstance(state, UnbuiltObject))


def only_keeps(cls: str, state: Value) -> bool:
    """Whether an object of a class keeps its state and asks nothing of what is in it, then or later."""
    owner = named(cls)
    if cls == _HANDLE:  # makes weak references of dicts, which it takes from a list
        parts = state if isinstance(state, tuple) else (state,)
        return not any(isinstance(one, UnbuiltObject) for part in parts for one in (part, *_listed(part)))
    if cls == ITER:
        return type(state) is int
    if cls == _SCRIPTED:
        return isinstance(state, tuple) and isinstance(state[-1:][0], str) and state[-1].startswith(_PACKED)
    if isinstance(state, UnbuiltObject):
        of = named(state.name)
        return not (is_of_library(of) or is_of_torch(of)) or not _holds_any(state)
    if is_of_torch(owner):  # a recurrent layer looks up what is not there
        return not any(
            isinstance(one, UnbuiltObject) and one.name in _ANSWERS for one in leaves((state,), MOST_OF_STATE)
        )
    if not is_of_library(owner) or cls in _HOLD:
        return True
    return all(
        _belongs(owner, one) for one in leaves((state,), MOST_OF_STATE) if isinstance(one, (Global, UnbuiltObject))
    )


def only_hashes(key: Value) -> bool:
    """Whether a key is hashed, and compared with others, by no method of what it holds: torch's distributions compare
    so. A key of somebody's own class is what its parts are.
    """
    waiting, left = [key], MOST_OF_STATE
    while waiting:
        for one in leaves((waiting.pop(),), MOST):
            left -= 1
            if not isinstance(one, UnbuiltObject):
                continue
            inside = (one.args, one.state, one.items, one.pairs)
            of = named(one.name)
            if is_of_torch(of) and not f"{one.name}.".startswith(_IDENTICAL) and _holds_any(one):
                return False
            if left < 0:
                return False
            if not is_of_torch(of):
                waiting.append(inside)
    return True


def holds_things(values: tuple[Value, ...]) -> bool:
    """Whether there are classes or objects among the values, however deep, or too many of them to say."""
    return any(isinstance(one, (Global, UnbuiltObject)) for one in leaves(values, MOST))


def holds_objects(values: tuple[Value, ...]) -> bool:
    """The same of objects alone, of which those that are tensors are none."""
    return any(
        one is _TOO_MANY or (isinstance(one, UnbuiltObject) and one.how != "unread") for one in leaves(values, MOST)
    )


def _holds_any(obj: UnbuiltObject) -> bool:
    return any(
        isinstance(one, (Global, UnbuiltObject))
        for one in leaves((obj.args, obj.kwargs, obj.state, obj.items, obj.pairs), MOST_OF_STATE)
    )


_TOO_MANY = Global("", "")


def leaves(values: tuple[Value, ...], most: int) -> Iterator[Value]:
    """What is in the values, however deep, but for what is in objects; `_TOO_MANY` where there is more than `most`."""
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


def _belongs(owner: Global, one: Global | UnbuiltObject) -> bool:
    """Whether what an object of the library's holds is what its like always hold."""
    name = one.name if isinstance(one, UnbuiltObject) else str(one)
    if owner.module == "configparser":
        return name.startswith("configparser.") or name in _PARSERS
    return owner.module.startswith("numpy.random") and name.startswith("numpy.random.")


def _listed(value: Value) -> Iterable[Value]:
    return value if isinstance(value, (list, tuple)) else ()


def named(cls: str) -> Global:
    """The name of a class that is spelled with a dot."""
    module, _, name = cls.rpartition(".")
    return Global(module, name)


def is_known(cls: Global) -> bool:
    """Whether it is one of these, or of a package of somebody's own."""
    *outer, last = cls.name.split(".")
    if last in _OF_OTHERS or any(map(is_dunder, (*outer, last))) or any(one[:1].islower() for one in outer):
        return False
    if is_of_torch(cls) and str(cls) not in KNOWN:
        return f"{cls.module}.".startswith(_TORCH)
    return str(cls) in KNOWN or not is_of_library(cls)


def is_dunder(name: str) -> bool:
    """Whether Python itself keeps something under a name: a class's class, a function's globals."""
    return name[:2] == "__" == name[-2:]


def is_of_torch(cls: Global) -> bool:
    """Whether it is torch's own."""
    return cls.module.partition(".")[0] == "torch"


def is_of_library(cls: Global) -> bool:
    """Whether it comes with Python, numpy or torch. A module that is called ``test`` is somebody's script."""
    return cls.module.partition(".")[0] in _LIBRARIES and cls.module != "test"
