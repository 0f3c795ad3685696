"""Pickles whose objects call what they hold as they are hashed, compared, shown or asked for their items.

What they call is named and never called: by a ``ChainMap`` the factory of a ``defaultdict``, by a section of a configuration
its parser, by torch's numbers that are symbols their node. Some run in loaders of others alone (`Case.loader`): joblib and
pandas load with pickle.py, which asks a state for its items; joblib reads arrays between the opcodes; torch's classes
and sympy's, which torch brings with it, take apart what they are handed.
"""

from __future__ import annotations

import pickle

import numpy as np

from tests.hostile.cases import CODES, MARKER, RUN, SYSTEM, Case, beside, call, checkpoint, named, stacked
from tests.hostile.implicit import BASE, ORDERED, OS_SYSTEM, PARTIAL, items, new, space, state
from tests.support.craft import text

ARRAY = pickle.dumps(np.arange(4, dtype=np.float32), 2)[2:-1]
U1 = (
    call("numpy", "dtype", text("u1"), b"\x89", b"\x88")
    + b"(K\3"
    + text("|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
)


def of(thing: bytes, given: bytes) -> bytes:
    """An object with a state."""
    return thing + given + b"b"


MISSING = call("collections", "defaultdict", PARTIAL)
CHAIN = of(new("collections", "ChainMap"), state(maps=b"(" + MISSING + b"}" + text("a") + b"Nsl"))
SECTION = of(
    new("configparser", "SectionProxy"), state(_parser=space(options=OS_SYSTEM, default_section=text("q")), _name=RUN)
)
COUNTER = call("copyreg", "_reconstructor", named("collections", "Counter"), named("builtins", "dict"), b"}K\1K\1s")
ASKED_OF_NODES = (
    "is_symbolic is_constant maybe_as_int guard_int is_int is_nested_int expect_true nested_int constant_int wrap_int "
    "bool_ guard_bool ge ne eq gt lt le"
)
SYMBOL = of(new("torch", "SymInt"), state(node=space(**dict.fromkeys(ASKED_OF_NODES.split(), PARTIAL))))


def network(version: bytes) -> bytes:
    """An address, which is hashed by its numbers and compared by its version."""
    return of(new("ipaddress", "IPv4Network"), state(network_address=b"K\1", netmask=b"K\2", _version=version))


def key(*keys: bytes) -> bytes:
    """A dict with these keys."""
    return b"}(" + b"".join(one + b"N" for one in keys) + b"u"


CLOSED = {"file": space(close=PARTIAL), "close_called": b"\x89", "delete": b"\x89", "name": text("x")}
CLOSER = state(__class__=named("tempfile", "_TemporaryFileCloser"), **CLOSED)

ASKED: dict[str, bytes] = {
    "another class, by slots": of(new("argparse", "Namespace"), b"N" + CLOSER + b"\x86"),
    "a metaclass by a class's __class__": stacked("tests.hostile.cases", "Case.__class__")
    + items(text("Y"), BASE + b"\x85", b"}") + state(command=RUN) + b"\x92",
    "a ChainMap that is compared": key(network(CHAIN), network(CHAIN)),
    "a ChainMap that is compared in a set": call("builtins", "set", b"(" + network(CHAIN) * 2 + b"l"),
    "a ChainMap for the state of a generator": of(new("random", "Random"), of(
        new("collections", "ChainMap"), state(maps=b"(" + MISSING + b"l"))),
    "a ChainMap in the state of numpy's generator": of(call("numpy.random._pickle", "__bit_generator_ctor", named(
        "numpy.random._pcg64", "PCG64")), state(bit_generator=text("PCG64"), state=of(
            new("collections", "ChainMap"), state(maps=b"(" + MISSING + b"l")))),
    "a section for a pair": call(
        "copyreg", "_reconstructor", named("collections", "Counter"), named("builtins", "dict"), b"(" + SECTION + b"l"),
}  # fmt: skip
"""They run in Python's own unpickler."""


def joblibs() -> bytes:
    """What joblib takes for an array of five bytes, and pickle for an opcode that pushes a call as bytes."""
    wrapper = of(new("joblib.numpy_pickle", "NumpyArrayWrapper"), state(
        subclass=named("numpy", "ndarray"), shape=b"K\5\x85", order=text("C"), dtype=U1, allow_mmap=b"\x89"))  # fmt: skip
    return wrapper + b"B\xff\0\0\0" + (SYSTEM + b"0N.").ljust(255, b"N") + b"0"


def bare(value: bytes) -> bytes:
    """A pickle of an array, with a value beside it."""
    return b"\x80\x04}(" + text("w") + ARRAY + text("m") + value + b"u."


LINEAR = new("torch.nn.modules.linear", "Linear")
CODE = text(f"__import__('os').system('touch {MARKER}')")

OF_LOADERS: dict[str, tuple[str, bytes]] = {
    "items of a state": ("pickle.py", of(new("argparse", "Namespace"), space(items=PARTIAL))),
    "the state of a module": ("torch", of(LINEAR, CHAIN)),
    "the hash of a symbol": ("torch", key(SYMBOL)),
    "a symbol for a size": ("torch", call(
        "torch._utils", "_rebuild_meta_tensor_no_storage", named("torch", "float32"), SYMBOL + b"\x85", b"K\1\x85", b"\x89")),
    "detach of a new Parameter's": ("torch", new("torch.nn.parameter", "Parameter", space(detach=PARTIAL))),
    "detach of a new Buffer's": ("torch", new("torch.nn.parameter", "Buffer", space(detach=PARTIAL, requires_grad=b"N"))),
    "a section in a handle": ("torch", of(new("torch.utils.hooks", "RemovableHandle"), b"(NK\1" + SECTION + b"t")),
    "the text of sympy's matrix": ("pickle", new("sympy.matrices.dense", "MutableDenseMatrix", b"((" + CODE + b"ll")),
    "the text of sympy's set": ("pickle", new("sympy.sets.sets", "FiniteSet", CODE)),
}  # fmt: skip
"""They run in the loader that is named first."""

NOT_FAR: dict[str, bytes] = {
    "os.system, never called": OS_SYSTEM,
    "a module, never asked": named("posixpath", "os"),
    "a file of numpy's, never made": named("numpy", "memmap"),
    "a file of torch's, never loaded": named("torch.serialization", "load"),
    "a dotted path's method": stacked("pathlib", "Path.touch"),
    "a package of programs": named("test.autotest", "main"),
    "an object that numpy's scalar gives back": ORDERED + b"q\x7f0" + of(call("numpy.core.multiarray", "scalar", call(
        "numpy", "dtype", text("O")), b"h\x7f"), state(keys=PARTIAL)),
    "a weak reference of another's": new("joblib.memory", "ref", b"\x8f", named("models", "run")),
    "a dict for a type": call("_operator", "getitem", named("typing", "List"), b"}K\1" + of(COUNTER, state(
        most_common=named("models", "run"))) + b"s"),
    "a distribution as a key": key(of(new("torch.distributions.transforms", "PowerTransform"), state(
        exponent=space(eq=named("models", "run"))))),
    "a wrapper of a symbol's size": call(
        "torch._utils", "_rebuild_wrapper_subclass", named("models", "Tensor"), named("torch", "float32"), of(
            new("models", "Size"), state(node=named("models", "run"))) + b"\x85", b")", b"K\0", b"N", b"N", b"\x89"),
    "an index of another class": call("pandas.core.indexes.base", "_new_Index", named("models", "Net"), b"}"),
    "a tree of another class": call("sklearn.neighbors._kd_tree", "newObj", named("models", "Net")),
    "an array of another class with a mask": call(
        "numpy.ma.core", "_mareconstruct", named("models", "Net"), named("numpy", "ndarray"), b"K\0\x85", text("b")),
    "a layer's lists that call for what they lack": of(LINEAR, state(all_weights=call(
        "collections", "defaultdict", named("models", "run")))),
    "a packed weight of another's": of(new("torch", "ScriptObject"), b"N" + text("__torch__.torch.classes.evil.X") + b"\x86"),
}  # fmt: skip
"""They would, with other classes, functions or releases than those that are here."""


def cases() -> list[Case]:
    """All of them."""
    code = CODES["would run code"]
    made = [
        Case(name, "calls", checkpoint(beside(value, 4)), "would run code", code, True, True)
        for name, value in ASKED.items()
    ]
    made += [
        Case(name, "bare", bare(value), "would run code", code, True, True, ".pkl") for name, value in ASKED.items()
    ]
    made += [
        Case(name, "calls", checkpoint(beside(value, 4)), "would run code", code, False, True)
        for name, value in NOT_FAR.items()
    ]
    for name, (loader, value) in OF_LOADERS.items():
        data, suffix = (checkpoint(beside(value, 4)), ".pth") if loader == "torch" else (bare(value), ".pkl")
        made.append(Case(name, "of loaders", data, "would run code", code, False, True, suffix, loader=loader))
    made.append(
        Case(
            "bytes that joblib takes for an array",
            "of loaders",
            bare(joblibs()),
            hostile=True,
            suffix=".joblib",
            loader="joblib",
        )
    )
    cut = b"\x80\x02}" + text("w") + ARRAY + b"s.\x80\x02" + SYSTEM
    made.append(Case("a second pickle without an end", "bare", cut, "would run code", code, True, True, suffix=".pkl"))
    return made
