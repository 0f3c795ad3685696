"""Names that no honest pickle needs and that can run anything: mentioning one counts as a call.

When an object is compared, hashed, converted to text, iterated or destroyed, its class's code runs, and may call what
the pickle put into it: a ``ChainMap`` calls the factory of a ``defaultdict`` in it, a stream its ``close``. No list of
such classes is ever complete. But each of them needs something that is worth calling, and that has a name too. So for
the standard library, numpy and torch, this lists the names that are harmless whoever calls them: classes whose objects
can be created without side effects (`new_objects`), and functions that only compute. Any other name counts, and so does
a name that stands for a module, because its functions are only an attribute away. Names of other packages are reported
as unknown.
"""

from __future__ import annotations

import sys

from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.calls.new_objects import KNOWN, is_dunder, is_known, is_of_library
from ckptconv.formats.torch.pickle import Global

_MATHS = (
    "math cmath itertools time zlib binascii heapq bisect statistics string numbers posixpath ntpath genericpath "
    "collections.abc _collections_abc _bisect _heapq"
)
_COMPUTE = frozenset(_MATHS.split())
"""Modules in which all functions and classes are harmless."""

_BUILTIN = (
    "Ellipsis NotImplemented abs all any ascii bin callable chr classmethod divmod enumerate format getattr hasattr "
    "hash hex id isinstance issubclass iter len max min next oct ord pow print property range repr reversed round "
    "slice sorted staticmethod sum type zip"
)
_OPERATOR = (
    "abs add and_ concat contains countOf eq floordiv ge getitem gt index indexOf inv invert is_ is_not itemgetter le "
    "length_hint lshift lt matmul mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor"
)
_FUNCTIONS = frozenset(
    f"{module}.{name}" for module, names in {
        "builtins": _BUILTIN, "operator": _OPERATOR, "_operator": _OPERATOR,
        "_codecs": "encode", "_struct": "Struct", "abc": "ABC ABCMeta", "copy": "copy deepcopy",
        "copyreg": "_reconstructor", "collections": "namedtuple",
        "dataclasses": "MISSING KW_ONLY asdict astuple", "decimal": "Context",
        "enum": "Enum EnumMeta EnumType Flag IntEnum IntFlag StrEnum", "functools": "reduce partialmethod",
        "inspect": "Parameter Signature _ParameterKind _empty", "json": "dumps loads", "logging": "getLogger",
        "re": "Pattern _compile", "types": "EllipsisType GenericAlias MappingProxyType NoneType NotImplementedType",
        "warnings": "warn", "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
    }.items() for name in names.split()
)  # fmt: skip

_READERS = "DataSource from_file fromfile fromregex genfromtxt load loads loadtxt memmap open_memmap"
_WRITERS = "save savetxt savez savez_compressed"
_FILES = frozenset([*_READERS.split(), *_WRITERS.split()])
"""Functions of numpy and torch that touch files, in any module."""

_NUMPY = (
    "numpy.", "numpy._core.", "numpy.core.", "numpy.dtypes.", "numpy.fft.", "numpy.linalg.", "numpy.ma.",
    "numpy.matrixlib.", "numpy.polynomial.", "numpy.random.", "numpy.rec.",
)  # fmt: skip
"""Modules with numpy's functions on arrays, by prefix; of ``numpy.`` only the module itself."""

_NUMPYS = (
    "char compat core ctypeslib distutils dtypes emath exceptions f2py fft lib linalg ma matlib matrixlib polynomial "
    "random rec strings testing typing version"
)
_TORCHS = (
    "F accelerator backends classes compiler cpu cuda dist distributed distributions export func functorch futures fx "
    "hub init jit library masked monitor mps mtia multiprocessing nested nn np numpy onnx ops optim overrides package "
    "profiler quantization rpc serialization signal sparse special storage testing torch utils xpu"
)
_MODULES = (sys.stdlib_module_names | {*_NUMPYS.split(), *_TORCHS.split()}) - {"select", "copy", "statistics"}
"""Names that stand for modules if they are an attribute of another; the three left out are also functions."""

_ON_TENSORS = (
    "torch", "torch._C._fft", "torch._C._linalg", "torch._C._nn", "torch._C._special", "torch.functional",
    "torch.nn.functional", "torch.nn.init", "torch.utils.data._utils.collate",
)  # fmt: skip
"""Modules with torch's functions on tensors, whose names begin with a lowercase letter."""

_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
_STORAGES = frozenset([*dtypes.STORAGE_CLASSES, *dtypes.QUANTIZED_STORAGES, dtypes.UNTYPED])

_COMPILES = ("compile", "import_ir_module", "vmap", "thread_safe_generator")


def is_storage(name: Global) -> bool:
    """Whether a name is a storage class, which stands for an element type."""
    return name.module in _STORAGE_MODULES and name.name in _STORAGES


def _is_tensor(name: Global) -> bool:
    """Whether a name is a tensor class, whose objects torch creates without calling methods of the class."""
    return name.name.endswith("Tensor") and name.name.isidentifier()


def could_run(name: Global) -> bool:
    """Whether a name must be reported as a call although no opcode calls it."""
    if name.module.partition(".")[0] == "torch":
        return not _is_harmless_in_torch(name)
    return is_of_library(name) and not _is_harmless_in_library(name)


def _is_harmless_in_library(name: Global) -> bool:
    """The same for the standard library and numpy."""
    if str(name) in KNOWN or str(name) in _FUNCTIONS:
        return True
    outer, _, inner = name.name.rpartition(".")
    if outer:  # a method, or an enum member
        return not is_dunder(inner) and _is_harmless_attribute(Global(name.module, outer), inner)
    if name.name.startswith("_") or (name.name in _MODULES and name.name != name.module):
        return name.module == "numpy.random._pickle" or name.name.startswith("__pyx_unpickle_SeedSequence")
    if name.module == "builtins":
        return name.name.endswith(("Error", "Exception", "Exit", "Interrupt", "Iteration", "Warning"))
    if name.module == "typing":
        return name.name[0].isupper()
    return name.module in _COMPUTE or _is_numpy_function(name)


def _is_harmless_attribute(owner: Global, attribute: str) -> bool:
    """Whether a class's attribute is harmless: a constant, or a method of a known class other than paths and arrays."""
    if attribute.isupper():
        return owner.name.lstrip("_")[:1].isupper()
    return str(owner) in KNOWN and owner.module.partition(".")[0] not in ("configparser", "numpy", "pathlib")


def _is_numpy_function(name: Global) -> bool:
    module = f"{name.module}."
    if name.name in _FILES or not (module == "numpy." or module.startswith(_NUMPY[1:])):
        return False
    return name.module != "numpy" or name.name.isidentifier()


def _is_harmless_in_torch(name: Global) -> bool:
    if is_storage(name) or _is_tensor(name):
        return True
    head, *rest = name.name.split(".")
    if any(map(is_dunder, (head, *rest))) or not _FILES.isdisjoint((head, *rest)) or head in _MODULES:
        return False
    if head in _COMPILES or str(name) in KNOWN:
        return str(name) in KNOWN
    if head.lstrip("_")[:1].isupper():
        if (name.module, head) == ("torch._C", "_VariableFunctionsClass"):  # torch.relu and its like
            return True
        return is_known(Global(name.module, head))
    return name.module in _ON_TENSORS and not head.startswith("_") and not rest
