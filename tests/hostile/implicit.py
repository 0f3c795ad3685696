"""Pickles that run code without REDUCE: by what opcodes, and harmless calls, call of their own accord.

BUILD, APPEND, APPENDS and ADDITEMS look a method up in the object, whose attributes an earlier BUILD may have given it;
``tuple.__new__`` takes the items of a ``map``; a stream is closed, a weak reference calls back, when they are thrown away; numpy's constructors of generators call what they are handed, torch's of
tensors a method of theirs. Source: Python's Modules/_pickle.c, numpy/random/_pickle.py, torch/_tensor.py, torch/_utils.py.
"""

from __future__ import annotations

from tests.hostile.cases import MARKER, PYTHON, RUN, call, named, stacked
from tests.support.craft import tensor, text

OS_SYSTEM = named("os", "system")
ORDERED = b"ccollections\nOrderedDict\n)R"
FILE = text(MARKER)
COMMANDS = b"(" + RUN + b"l"


def new(module: str, name: str, *args: bytes) -> bytes:
    """An object by NEWOBJ, its arguments given as opcodes."""
    return named(module, name) + b"(" + b"".join(args) + b"t\x81"


def given(thing: bytes, attribute: bytes, value: bytes) -> bytes:
    """An object with one attribute, by BUILD."""
    return thing + b"}" + attribute + value + b"sb"


def method(name: str, thing: bytes = b"") -> bytes:
    """An object, one of whose methods is `os.system` from now on."""
    return given(thing or new("argparse", "Namespace"), text(name), OS_SYSTEM)


PARTIAL = new("functools", "partial", OS_SYSTEM, RUN)
LAZY = new("builtins", "map", OS_SYSTEM, COMMANDS)


def of_type(cls: bytes, state: bytes) -> bytes:
    """A tensor of a class, with a state."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    args = tensor().removeprefix(rebuild)[:-1]
    return tensor() + b"0" + call("torch._tensor", "_rebuild_from_type_v2", rebuild, cls, args, state)


def state(**attributes: bytes) -> bytes:
    """A dict, as opcodes."""
    return b"}(" + b"".join(text(key) + value for key, value in attributes.items()) + b"u"


def space(**attributes: bytes) -> bytes:
    """An argparse.Namespace."""
    return new("argparse", "Namespace") + state(**attributes) + b"b"


def items(*values: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(values) + b"t"


PROFILE = new("functools", "partial", named("cProfile", "run"), text(PYTHON))
"""It runs Python before it looks at what else it is handed."""

WRITTEN = space(_get_args=PARTIAL)
"""It calls as soon as it is written as text."""

BASE = named("builtins", "type") + items(text("X"), b")", state(__init_subclass__=OS_SYSTEM)) + b"\x81"

LIBRARY: dict[str, bytes] = {
    "a class with keywords for __init_subclass__": named("builtins", "type")
    + items(text("Y"), BASE + b"\x85", b"}") + state(command=RUN) + b"\x92",
    "the callback of a weak reference": new("weakref", "ref", b"\x8f", PROFILE),
    "close of a stream": new("io", "IOBase") + state(close=PARTIAL) + b"b",
    "close of a stream, by another module": stacked("omegaconf.omegaconf", "io.IOBase") + b")\x81" + state(close=PARTIAL) + b"b",
    "close of a stream, by _reconstructor": call(
        "copyreg", "_reconstructor", named("tempfile", "_TemporaryFileCloser"), named("builtins", "object"), b"N")
    + state(close_called=b"\x89", file=space(close=PARTIAL), delete=b"\x89", name=text("x")) + b"b",
    "close of a shelf": new("shelve", "Shelf") + state(
        dict=space(close=PARTIAL, sync=PARTIAL), cache=b"}", writeback=b"\x89") + b"b",
    "the text of a Namespace": new("builtins", "str", WRITTEN + b"\x85"),
    "the text of a Namespace, numpy's": new("numpy", "str_", WRITTEN + b"\x85"),
    "the text of a Namespace, its attribute a string of a class": new("builtins", "str", new("argparse", "Namespace") + b"}"
    + new("numpy", "str_", text("_get_args")) + PARTIAL + b"sb\x85"),
    "the text of an address": call("ipaddress", "IPv4Network", items(WRITTEN, b"K\1")),
    "the offset of a time zone": b"}" + call(
        "datetime", "datetime", b"C\x0a\x07\xe4\1\1\0\0\0\0\0\0", new("zoneinfo._zoneinfo", "ZoneInfo", text("UTC"))
        + state(utcoffset=PROFILE) + b"b") + b"Ns",
    "a file of numpy's": new("numpy", "memmap", FILE, text("u1"), text("w+"), b"K\0", b"K\5\x85"),
}  # fmt: skip
"""They run with classes of Python's own library, and of numpy, that are made and given a state once."""

IMPLICIT: dict[str, bytes] = {
    # What opcodes call, where an object's attribute hides its class's method
    "APPEND to an object": method("append") + RUN + b"a",
    "APPENDS to an object": method("append") + b"(" + RUN + b"e",
    "APPENDS to an object that extends": given(
        new("argparse", "Namespace"), text("extend"), named("subprocess", "Popen")) + b"(" + text("touch") + FILE + b"e",
    "ADDITEMS to an object": method("add") + b"(" + RUN + b"\x90",
    "ADDITEMS to a called object": method("add", call("types", "SimpleNamespace")) + b"(" + RUN + b"\x90",
    "BUILD of an object, twice": method("__setstate__") + RUN + b"b",
    "BUILD of an OrderedDict, twice": method("__setstate__", ORDERED) + RUN + b"b",
    "BUILD of slots": new("argparse", "Namespace") + b"N}" + text("append") + OS_SYSTEM + b"s\x86b" + RUN + b"a",
    "BUILD, BUILD, APPEND": method("append") + b"}b" + RUN + b"a",
    "SETITEM by a class that calls an attribute": new("os", "_Environ") + b"}" + text("encodekey") + OS_SYSTEM + b"sb"
    + RUN + FILE + b"s",
    "BUILD of a partial, twice": PARTIAL + b"(" + OS_SYSTEM + b")}}" + text("__setstate__") + OS_SYSTEM + b"stb" + RUN + b"b",
    "BUILD with a string of a class": given(
        new("argparse", "Namespace"), new("numpy", "str_", text("append")), OS_SYSTEM) + RUN + b"a",
    "BUILD with a dict of a class": new("argparse", "Namespace") + new("logging.config", "ConvertingDict") + text("append")
    + OS_SYSTEM + b"sb" + RUN + b"a",
    "keys of an OrderedDict": call("collections", "Counter", given(ORDERED, text("keys"), PARTIAL)),
    "keys of an object": call(
        "collections", "defaultdict", b"N", given(new("argparse", "Namespace"), text("keys"), PARTIAL)),
    # Without REDUCE
    "map and tuple as new objects": new("builtins", "tuple", LAZY),
    "map and frozenset as new objects": new("builtins", "frozenset", LAZY),
    "map in a product": new("itertools", "product", LAZY),
    "map in an array": new("array", "array", text("i"), LAZY),
    "map in a deque": call("collections", "deque", LAZY),
    "filter and tuple as new objects": new("builtins", "tuple", new("builtins", "filter", OS_SYSTEM, COMMANDS)),
    "starmap as a new object": new(
        "builtins", "tuple", new("itertools", "starmap", OS_SYSTEM, b"((" + RUN + b"tl")),
    "groupby as a new object": new("builtins", "tuple", new("itertools", "groupby", COMMANDS, OS_SYSTEM)),
    "map in _reconstructor": call(
        "copyreg", "_reconstructor", named("collections", "Counter"), named("builtins", "dict"), LAZY),
    # By harmless calls with arguments that are not
    "numpy's generator": call("numpy.random._pickle", "__generator_ctor", RUN, OS_SYSTEM),
    "numpy's RandomState": call("numpy.random._pickle", "__randomstate_ctor", RUN, OS_SYSTEM),
    **LIBRARY,
}  # fmt: skip
"""They run in Python's own unpickler."""

NOT_FAR: dict[str, bytes] = {
    "a library by the name of an attribute": call("builtins", "getattr", named("ctypes", "cdll"), text("./nothing.so")),
    "a library by a dotted name": stacked("ctypes", "cdll./nothing"),
    "a library by a dotted name of another module": stacked("uuid", "ctypes.cdll./nothing") + b"0N",
    "a folder that numpy throws away": new("numpy.lib._datasource", "DataSource") + state(
        _istmpdest=b"\x88", _destpath=text("nothing")) + b"b",
    "a pickle in a data pipe's wrapper": new(
        "torch.utils.data.datapipes.datapipe", "_IterDataPipeSerializationWrapper") + items(b"C\2N.", b"\x89") + b"b",
    "a weak reference that torch has as well": new("torch.optim.lr_scheduler", "ref", b"\x8f", PROFILE),
    "an object for numpy's scalar, which gave it back": call("numpy.core.multiarray", "scalar", call(
        "numpy", "dtype", text("O")), named("models", "Net")) + b"N" + state(append=OS_SYSTEM) + b"\x86b",
    "an OrderedDict as a tensor": call(
        "torch._tensor", "_rebuild_from_type_v2", named("collections", "OrderedDict"), named("collections", "OrderedDict"),
        b")", state(keys=PARTIAL)),
    "__torch_function__ of an object": call(
        "torch._utils", "_rebuild_meta_tensor_no_storage", space(f=OS_SYSTEM), b")", b")", b"\x89"),
    "the text of an object, by numpy's dtype": call("numpy", "dtype", text("f4"), new("models", "Net")),
    "the items of an object, by numpy's _reconstruct": call(
        "numpy._core.multiarray", "_reconstruct", named("numpy", "ndarray"), new("models", "Net"), b"C\1b"),
    "the hash of an object, by a subscript": call("_operator", "getitem", named("typing", "List"), new("models", "Net")),
    "the hash of an object, by numpy's bit generator": call(
        "numpy.random._pickle", "__bit_generator_ctor", new("models", "Net") + b"\x85"),
    "__torch_function__ of an object, kept": space(__torch_function__=OS_SYSTEM),
    "the method to of an object": call(
        "torch._utils", "_rebuild_device_tensor_from_cpu_tensor", space(to=OS_SYSTEM), b"N", b"N", b"\x89"),
    "numpy's bit generator": call("numpy.random._pickle", "__bit_generator_ctor", named("models", "Net")),
    "a method of what a UUID is made of": call("uuid", "UUID", given(
        new("argparse", "Namespace"), text("replace"), named("models", "Net"))),
    "a SimpleNamespace of a dict": call("types", "SimpleNamespace", b"}" + text("a") + OS_SYSTEM + b"s"),
    "an enum, dotted": stacked("transformers", "trainer_utils.IntervalStrategy") + text("no") + b"\x85R",
    "an enum of an object": call("transformers.trainer_utils", "IntervalStrategy", new("models", "Net")),
    "as_subclass of a tensor": of_type(
        named("torch", "Tensor"), b"}" + text("as_subclass") + OS_SYSTEM + b"s"),
    "detach of a tensor": of_type(named("models", "Tensor"), b"}" + text("detach") + PARTIAL + b"s"),
    "items of a tensor's state": of_type(
        named("torch", "Tensor"), given(new("argparse", "Namespace"), text("items"), PARTIAL)),
    "items of a Parameter's state": tensor() + b"0" + call(
        "torch._utils", "_rebuild_parameter_with_state", tensor(), b"\x88", ORDERED,
        given(new("argparse", "Namespace"), text("items"), PARTIAL)),
    "BUILD of a tensor, twice": of_type(named("torch", "Tensor"), b"}" + text("__setstate__") + OS_SYSTEM + b"s") + RUN
    + b"b",
    "a tensor's class that is none": of_type(RUN, b"}"),
}  # fmt: skip
"""They would, with torch and classes that are not here."""

RUNS = named("models", "run")
"""A function of somebody's own."""

UNCALLED: dict[str, bytes] = {
    "a function as an attribute": new("argparse", "Namespace") + state(run=RUNS) + b"b",
    "a context manager as an attribute": new("contextlib", "nullcontext") + b"}" + text("enter_result") + b"Nsb",
    "items, then a function as an attribute": new("models", "List") + RUN + b"a}" + text("run") + RUNS + b"sb",
    "partial, never called": new("functools", "partial", RUNS, RUN),
    "partial by REDUCE, never called": call("functools", "partial", RUNS) + b"(" + RUNS + b"(" + RUN + b"t}Ntb",
    "an enum of a library's": call("transformers.trainer_utils", "IntervalStrategy", text("steps")),
    "a tensor with a function as an attribute": of_type(named("torch", "Tensor"), b"}" + text("f") + RUNS + b"s"),
    "numpy's generator, as numpy pickles it": call(
        "numpy.random._pickle", "__generator_ctor", call(
            "numpy.random._pickle", "__bit_generator_ctor", named("numpy.random._pcg64", "PCG64")) + b"}b"),
    "a time zone": call("datetime", "timezone", call("datetime", "timedelta", b"K\0", b"J\x10\x0e\0\0", b"K\0")),
}  # fmt: skip
"""Names, objects and harmless calls of the same kinds, with which nothing runs."""
