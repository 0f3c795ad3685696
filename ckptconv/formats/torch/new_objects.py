"""New objects in a pickle, by NEWOBJ or ``copyreg._reconstructor``: of which classes they are made and no more.

What a class does when an object of it is made, compared, written as text or thrown away is code that somebody wrote: it
is asked with the state that the pickle gives. Of Python's own library and numpy, which are there wherever a pickle is
loaded, whole families run what they are handed: a ``weakref.ref`` its callback, a stream of ``io`` its ``close``, a
metaclass what its classes have; ``numpy.memmap`` makes a file. So that their classes are known by exact name, and any
other is worth an alarm. torch has some, too, such as a data pipe's wrapper, whose state is a pickle that it loads: what
checkpoints have are modules, optimizers and their like. Classes of other packages are told as what they are: not known
here.

A class has its own module and name, as pickle writes them; ``weakref.ref`` in ``torch.nn.modules.module`` is another's.
"""

from __future__ import annotations

import sys

from ckptconv.formats.torch.pickle import Global, Thing, Value

_GONE = (
    "aifc asynchat asyncore cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib ossaudiodev "
    "pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib"
)
_LIBRARIES = frozenset(
    [*sys.stdlib_module_names, *_GONE.split(), "numpy", "pip", "setuptools", "pkg_resources", "_distutils_hack", "test"]
)
"""Top-level packages that come with Python, whichever release, and numpy's."""

_KNOWN = frozenset(
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
        "numpy": "bool_ bytes_ float32 float64 int32 int64 poly1d str_",
        "numpy.random.bit_generator": "SeedSequence",
        "optparse": "Values",
        "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        "random": "Random", "string": "Template", "torch._dynamo.decorators": "_DimRange",
        "torch.distributed._mesh_layout": "_FlatLayout _MeshLayout", "torch.utils.data.dataloader": "DataLoader",
        "types": "SimpleNamespace", "urllib.parse": "ParseResult SplitResult", "uuid": "SafeUUID UUID",
    }.items() for name in names.split()
)  # fmt: skip
"""Classes of these of which an object is made and no more, whatever its state."""

_TORCH = (
    "torch.", "torch._C.", "torch._C._distributed.", "torch.amp.", "torch.ao.", "torch.cuda.amp.",
    "torch.distributed._shard.metadata.", "torch.distributed._shard.sharded_tensor.",
    "torch.distributed._shard.sharding_spec.", "torch.distributed._tensor.", "torch.distributed.checkpoint.metadata.",
    "torch.distributed.device_mesh.", "torch.distributed.fsdp.api.", "torch.distributed.tensor.",
    "torch.distributions.", "torch.nn.", "torch.optim.", "torch.quantization.", "torch.storage.",
    "torch.utils.data.dataset.", "torch.utils.data.distributed.", "torch.utils.data.sampler.", "torch.utils.hooks.",
)  # fmt: skip
"""Where torch has classes of which checkpoints have objects."""

_OF_OTHERS = ("ABCMeta", "ref")
"""What these modules have from others under its own name."""

_KEEP = ("argparse.Namespace", "functools.partial")
"""Those that take no look at their arguments."""

_CONTAINERS = frozenset(f"builtins.{name}" for name in ["dict", "frozenset", "list", "set", "tuple"])
_VALUES = frozenset(f"builtins.{name}" for name in ["bytes", "float", "int", "str"])
_OBJECT = "builtins.object"

MOST = 100
"""Values among arguments that are looked at; nobody's have more."""


def only_makes(cls: Global, args: tuple[Value, ...], kwargs: dict[str, Value]) -> bool:
    """Whether a new object of `cls` is made and nothing else. What a class of somebody's own does is not known."""
    if not _is_known(cls):
        return False
    if not _is_of_library(cls) or str(cls) in _KEEP:
        return True
    return not kwargs and not holds_things(args)


def only_reconstructs(args: tuple[Value, ...]) -> bool:
    """The same of ``copyreg._reconstructor``, of a class, a base and a state: the base takes its items."""
    if len(args) != 3 or type(args[0]) is not Global or not _is_known(args[0]):
        return False
    base, state = str(args[1]), args[2]
    if base in _VALUES:
        return not holds_things((state,))
    return base == _OBJECT or (base in _CONTAINERS and not isinstance(state, Thing))


def holds_things(values: tuple[Value, ...]) -> bool:
    """Whether there are classes or objects among the values, however deep, or too many of them to say."""
    waiting, left = list(values), MOST
    while waiting:
        value = waiting.pop()
        left -= 1
        if left < 0 or isinstance(value, (Global, Thing)):
            return True
        if isinstance(value, (list, tuple, set, frozenset)):
            waiting.extend(value if len(value) <= MOST else [Global("", "")])
        elif isinstance(value, dict):
            waiting.extend([*value, *value.values()] if len(value) <= MOST else [Global("", "")])
    return False


def _is_known(cls: Global) -> bool:
    """Whether it is one of these, or of a package of somebody's own."""
    if any(outer[:1].islower() for outer in cls.name.split(".")[:-1]):
        return False
    if cls.module.partition(".")[0] == "torch" and str(cls) not in _KNOWN:
        return cls.name not in _OF_OTHERS and any(
            cls.module + "." == one or (one != "torch." and f"{cls.module}.".startswith(one)) for one in _TORCH
        )
    return str(cls) in _KNOWN or not _is_of_library(cls)


def _is_of_library(cls: Global) -> bool:
    return cls.module.partition(".")[0] in _LIBRARIES
