"""Pickles that would run code, and those that only look as if."""

from __future__ import annotations

import io
import marshal
import pickle

import numpy as np
import torch

from tests.hostile.cases import (
    CODES,
    MARKER,
    ONE,
    PYTHON,
    RUN,
    SHELL,
    SYSTEM,
    Case,
    beside,
    call,
    checkpoint,
    named,
    stacked,
)
from tests.hostile.implicit import IMPLICIT, NOT_FAR, UNCALLED
from tests.support.craft import state_dict, tensor, text

OS_SYSTEM = named("os", "system")
CODE = text(PYTHON)
ARGV = b"(" + text("touch") + text(MARKER) + b"l"
NOTHING = b"N"
FILE = text(MARKER)
ORDERED = b"ccollections\nOrderedDict\n)R"


def raw(data: bytes) -> bytes:
    return b"B" + len(data).to_bytes(4, "little") + data


def nested(inner: bytes) -> bytes:
    return call("pickle", "loads", raw(inner))


INNER = b"\x80\x03" + SYSTEM + b"."


LIVE: dict[str, bytes] = {
    # What a call is spelled with
    "REDUCE": SYSTEM,
    "INST": b"(" + RUN + b"ios\nsystem\n",
    "OBJ": b"(" + OS_SYSTEM + RUN + b"o",
    "STACK_GLOBAL": stacked("os", "system") + RUN + b"\x85R",
    "a dotted name": stacked("importlib", "sys.modules.get") + text("os") + b"\x85R0" + SYSTEM,
    "a method by a dotted name": stacked("pathlib", "Path.touch") + call("pathlib", "Path", FILE) + b"\x85R",
    "Python 2's name": call("__builtin__", "eval", CODE),
    "posix": call("posix", "system", RUN),
    "the function from the memo": OS_SYSTEM + b"r\x40\x42\x0f\x000j\x40\x42\x0f\x00" + RUN + b"\x85R",
    "the function doubled": OS_SYSTEM + b"20" + RUN + b"\x85R",
    "names from the memo": text("system") + b"q\x410" + text("os") + b"h\x41\x93" + RUN + b"\x85R",
    "a number as memo key, in text": OS_SYSTEM + b"p1000000\n0g1000000\n" + RUN + b"\x85R",
    "arguments from the memo": RUN + b"\x85q\x420" + OS_SYSTEM + b"h\x42R",
    "a name in another encoding": b"\x8c\x02os\x8c\x06system\x93" + RUN + b"\x85R",
    "a name as UNICODE": b"Vos\nVsy\\u0073tem\n\x93" + RUN + b"\x85R",
    "a name as STRING": b"S'os'\nS'system'\n\x93" + RUN + b"\x85R",
    "copyreg.__newobj__": call("copyreg", "__newobj__", named("builtins", "object")) + b"0" + SYSTEM,
    "_reconstructor with a base of its own": call(
        "copyreg", "_reconstructor", named("subprocess", "Popen") + b"2", ARGV
    ),
    "partial, then called": call("functools", "partial", OS_SYSTEM, RUN) + b")R",
    "getattr": call("builtins", "getattr", call("importlib", "import_module", text("os")), text("system"))
    + RUN + b"\x85R",
    "getattr of getattr": call(
        "builtins", "getattr",
        call("builtins", "getattr", named("os", "path"), text("os")), text("system")) + RUN + b"\x85R",
    "operator.attrgetter": call("operator", "attrgetter", text("os.system")) + named("os", "path") + b"\x85R"
    + RUN + b"\x85R",
    "operator.methodcaller": call("operator", "methodcaller", text("system"), RUN)
    + call("importlib", "import_module", text("os")) + b"\x85R",
    "map, consumed by list": call("builtins", "list", call("builtins", "map", OS_SYSTEM, b"(" + RUN + b"l")),
    "map, consumed by set": call("builtins", "set", call("builtins", "map", OS_SYSTEM, b"(" + RUN + b"l")),
    "map, consumed by deque": call("collections", "deque", call("builtins", "map", OS_SYSTEM, b"(" + RUN + b"l")),
    "filter, consumed by OrderedDict": call(
        "collections", "OrderedDict", call("builtins", "filter", OS_SYSTEM, b"(" + RUN + b"l")),
    "itertools.starmap": call("builtins", "tuple", call("itertools", "starmap", OS_SYSTEM, b"((" + RUN + b"tl")),
    # Who runs it
    "eval": call("builtins", "eval", CODE),
    "exec": call("builtins", "exec", CODE),
    "compile, exec": call("builtins", "exec", call("builtins", "compile", CODE, text("x"), text("exec"))),
    "marshal, exec": call(
        "builtins", "exec", call("marshal", "loads", raw(marshal.dumps(compile(PYTHON, "x", "exec"))))),
    "a function of code": named("types", "FunctionType")
    + call("marshal", "loads", raw(marshal.dumps(compile(PYTHON, "x", "exec"))))
    + call("builtins", "globals") + b"\x86R)R",
    "subprocess.Popen": call("subprocess", "Popen", ARGV),
    "subprocess.call": call("subprocess", "call", ARGV),
    "subprocess.getoutput": call("subprocess", "getoutput", RUN),
    "os.popen": call("os", "popen", RUN),
    "os.mkdir": call("os", "mkdir", FILE),
    "os.mknod": call("os", "mknod", FILE),
    "open": call("builtins", "open", FILE, text("w")),
    "io.open": call("io", "open", FILE, text("w")),
    "io.FileIO": call("io", "FileIO", FILE, text("w")),
    "shutil.copyfile": call("shutil", "copyfile", text("/dev/null"), FILE),
    "tempfile": call("tempfile", "mkdtemp", text(""), FILE, text(".")) + b"0" + call("os", "mkdir", FILE),
    "a nested pickle": nested(INNER),
    "a pickle in a pickle in a pickle": nested(b"\x80\x03" + nested(INNER) + b"."),
    "_pickle": call("_pickle", "loads", raw(INNER)),
    "timeit": call("timeit", "timeit", CODE, text("pass"), named("time", "perf_counter"), b"K\x01"),
    "cProfile": call("cProfile", "run", CODE),
    "bdb": stacked("bdb", "Bdb.run") + call("bdb", "Bdb") + CODE + b"\x86R",
    "runpy": call("runpy", "_run_code", call("builtins", "compile", CODE, text("x"), text("exec")), b"}"),
    "code": stacked("code", "InteractiveInterpreter.runsource") + call("code", "InteractiveInterpreter") + CODE + b"\x86R",
    "uuid": call("uuid", "_get_command_stdout", text("touch"), FILE),
    "numpy.f2py": call("numpy.f2py.crackfortran", "getlincoef", CODE, b"}"),
    "logging": call("logging", "FileHandler", FILE),
    "sqlite3": call("sqlite3", "connect", FILE) + b"0" + call("os", "mkdir", FILE),
    # Where its result goes
    "thrown away": SYSTEM + b"0N",
    "thrown away by a mark": b"(" + SYSTEM + b"1N",
    "kept in the memo alone": SYSTEM + b"q\x430N",
    "overwritten": b"}K\x01" + SYSTEM + b"sK\x01Ns",
    "a key": b"}" + SYSTEM + b"Ns",
    "in a key": b"}" + SYSTEM + b"\x85Ns",
    "a member of a set": b"\x8f(" + SYSTEM + b"\x90",
    "a member of a frozenset": b"(" + SYSTEM + b"\x91",
    "deep in lists": b"]" * 40 + SYSTEM + b"a" * 40,
    "an attribute of an OrderedDict": ORDERED + b"}" + text("x") + SYSTEM + b"sb",
    "in a state_dict's _metadata": ORDERED + b"}" + text("_metadata") + SYSTEM + b"sb",
    "a hook of a tensor": tensor()[: -len(ORDERED) - 2] + SYSTEM + b"tR",
    "an argument of a harmless call": call("pathlib", "PurePosixPath", call("builtins", "str", SYSTEM)),
    "a state that another one replaces": named("argparse", "Namespace") + b")\x81}" + text("a") + SYSTEM
    + b"sb}" + text("a") + b"Nsb",
    "items of an object": named("collections", "UserList") + b")\x81" + b"}" + text("data") + b"]sb" + SYSTEM + b"a",
    "pairs of an object": named("collections", "UserDict") + b")\x81" + b"}" + text("data") + b"}sb"
    + text("a") + SYSTEM + b"s",
    "a subscript of a type": call("_operator", "getitem", named("typing", "List"), SYSTEM),
    "the default of a getattr": call("builtins", "getattr", named("os", "path"), text("join"), SYSTEM),
    "twice": SYSTEM + b"0" + SYSTEM,
    "after a million values": b"(" + b"K\x01" * 100_000 + b"l0" + SYSTEM,
    **IMPLICIT,
}  # fmt: skip

NOT_HERE: dict[str, bytes] = {
    "nt": call("nt", "system", RUN),
    "torch.hub": call("torch.hub", "load", text("x/y"), text("z")),
    "torch.load": call("torch", "load", text("other.pth")),
    "torch.jit.load": call("torch.jit", "load", text("other.pt")),
    "torch.compile": call("torch._inductor.codecache", "PyCodeCache.load", CODE),
    "torch's guards": call("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", CODE),
    "torch.utils.bottleneck": call("torch.utils.bottleneck.__main__", "run_cprofile", CODE, b"}"),
    "torch.jit.unsupported_tensor_ops": call("torch.jit.unsupported_tensor_ops", "execWrapper", CODE, b"}", b"}"),
    "numpy.load": call("numpy", "load", text("other.npy"), b"N", b"\x88"),
    "numpy.fromfile": call("numpy", "fromfile", text("/dev/null")),
    "joblib": call("joblib", "load", text("other.joblib")),
    "dill": call("dill", "loads", raw(INNER)),
    "cloudpickle": call("cloudpickle.cloudpickle", "_make_function", NOTHING),
    "pip": call("pip", "main", b"(" + text("--version") + b"l"),
    "webbrowser": call("webbrowser", "open", text("about:blank")),
    "ctypes": call("ctypes", "CDLL", text("nothing.so")),
    "idlelib": stacked("idlelib.pyshell", "ModifiedInterpreter.runcommand") + NOTHING + CODE + b"\x86R",
    "a class of one's own": call("models", "Net"),
    "an attribute that is then extended": call("builtins", "getattr", named("typing", "sys"), text("path")) + b"(" + text("x") + b"e",
    "an attribute whose keys are then set": call("builtins", "getattr", named("os", "environ"), text("_data")) + text("k") + text("v") + b"s",
    "an attribute that then gets a state": call("builtins", "getattr", named("typing", "sys"), text("flags")) + b"}b",
    "a subscript of the modules": call("_operator", "getitem", stacked("typing", "sys.modules"), text("os")) + b"}b",
    "a subscript of Python's names": call("_operator", "getitem", named("builtins", "__dict__"), text("exec")),
    "a subscript of a class of one's own": call("_operator", "getitem", named("models", "Net"), NOTHING),
    "a class made by type": call("builtins", "type", text("X"), b")", b"}"),
    "an enum as Python 3.12 pickles it": call("models", "Colour", b"K\x01"),
    "a module in Cyrillic": call("оs", "system", RUN),
    "a module with a zero-width space": call("o\u200bs", "system", RUN),
    "full-width letters": call("ｏｓ", "system", RUN),
    "NUL in the module": stacked("os\0", "system") + RUN + b"\x85R",
    "a line feed in the name": stacked("os", "system\nplain") + RUN + b"\x85R",
    "terminal escapes in the name": stacked("os\x1b[2K\x1b[1A", "system") + RUN + b"\x85R",
    "right-to-left override": stacked("\u202eso", "system") + RUN + b"\x85R",
    "a lone surrogate in the name": b"X\x03\0\0\0\xed\xa0\x80" + text("system") + b"\x93" + RUN + b"\x85R",
    "empty names": stacked("", "") + RUN + b"\x85R",
    "a name of 4,000 letters": stacked("o" * 4_000, "system") + RUN + b"\x85R",
    "a harmless module, dotted": stacked("pathlib", "os.system") + RUN + b"\x85R",
    "a harmless class, dotted": stacked("datetime", "datetime.system") + RUN + b"\x85R",
    "torch's own spelling, dotted": stacked("torch", "_utils._rebuild_tensor_v2") + b")R",
    "ours, in other letters": call("collections", "ordereddict"),
    "NEWOBJ of what a call gives": SYSTEM.replace(RUN, text("true")) + b")\x81",
    "NEWOBJ_EX of what a call gives": SYSTEM.replace(RUN, text("true")) + b")}\x92",
    "copyreg.__newobj_ex__": call("copyreg", "__newobj_ex__", OS_SYSTEM, b"(" + RUN + b"t", b"}"),
    "a tensor's rebuilding by another": call(
        "torch._tensor", "_rebuild_from_type_v2", OS_SYSTEM, named("torch", "Tensor"), RUN + b"\x85", b"}"),
    "an object that is then called": named("models", "Net") + b")\x81)R",
    **NOT_FAR,
    "NEWOBJ of a function": OS_SYSTEM + RUN + b"\x85\x81",
    "a state for what a call gives": SYSTEM.replace(RUN, text("true")) + b"}b",
    "a tensor from a call, outside of the model": call("models", "make", b"K\x01"),
}  # fmt: skip
"""Would run code, but Python here does not have it, or it would not get far."""

ONLY_NAMED: dict[str, bytes] = {
    "a function, never called": named("models", "run"),
    "a module that is imported": named("antigravity_that_is_not_there", "x") + b"0N",
    "a storage class of someone's own": tensor().replace(b"ctorch\nFloatStorage", b"cevil\nFloatStorage"),
    **UNCALLED,
    "NEWOBJ_EX": named("models", "Net") + b")}" + text("k") + b"K\x01s\x92",
    "BUILD": named("models", "Net") + b")\x81}" + text("width") + b"K\x03sb",
    "a defaultdict that would call": call("collections", "defaultdict", named("models", "run")),
    "numpy's array of a class": call(
        "numpy.core.multiarray", "_reconstruct", named("evil", "Array"), b"K\x00\x85", b"C\x01b"),
}  # fmt: skip

NOT_FOLLOWED: dict[str, bytes] = {
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "PERSID": b"Pstorage\n",
    "a persistent id that is called": SYSTEM + b"Q",
    "a persistent id of another kind": b"(" + text("module") + OS_SYSTEM + b"tQ",
    "BUILD of a global": OS_SYSTEM + b"}b",
    "an offset that a call gives": tensor(offset=SYSTEM),
    "a size that a call gives": tensor(size=SYSTEM),
    "requires_grad that a call gives": tensor().replace(b"\x89c", SYSTEM + b"c"),
    "arguments that are not a tuple": OS_SYSTEM + b"(" + RUN + b"lR",
    "a global's name that is not a string": b"K\x01K\x02\x93",
    "an opcode that is none": b"\xfe",
    "a name of a million letters": stacked("o" * 1_000_000, "system") + RUN + b"\x85R",
    "protocol 6": b"\x80\x06N",
    "no stop": b"N" * 3,
}


NO_MODEL = (0, 1, 2, 2)


def bare_tensor(value: bytes) -> bytes:
    """A pickle of a state_dict whose one entry is `value`."""
    return state_dict(w=value)


def protocols() -> list[Case]:
    """The same call as Python itself spells it in every protocol."""

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            import os

            return os.system, (SHELL,)

    made = []
    for protocol in range(6):
        body = pickle.dumps(Evil(), protocol)
        body = body[2 if protocol >= 2 else 0 :]
        if protocol >= 4:
            body = body[9:]  # the frame
        data = checkpoint(beside(body[:-1], protocol))
        made.append(Case(f"protocol {protocol}", "calls", data, "would run code", CODES["would run code"], True, True))
    return made


ARRAY = pickle.dumps(np.arange(4, dtype=np.float32), 2)[2:-1]
"""An array, as opcodes."""


def _in_a_storage() -> bytes:
    """A tensor whose storage is a file of torch's that makes a call when it is loaded."""
    inner = io.BytesIO()
    torch.save(torch.ones(3)._typed_storage(), inner, _use_new_zipfile_serialization=False)
    data = inner.getvalue()
    at = data.index(b"\x80\x02}") + 2
    data = data[:at] + SYSTEM + b"0" + data[at:]
    storage = call("torch.storage", "_load_from_bytes", raw(data))
    made = call("torch._utils", "_rebuild_tensor_v2", storage, b"K\0", b"K\3\x85", b"K\1\x85", b"\x89", ORDERED)
    return b"\x80\x03}" + text("w") + made + b"s."


IN_A_STORAGE = _in_a_storage()


def cases() -> list[Case]:
    """All of them."""
    code = CODES["would run code"]
    made = protocols()
    for name, value in LIVE.items():
        protocol = 4 if b"\x93" in value else 2  # from 4 on, a name may have dots
        made.append(Case(name, "calls", checkpoint(beside(value, protocol)), "would run code", code, True, True))
    for name, value in NOT_HERE.items():
        made.append(Case(name, "calls", checkpoint(beside(value)), "would run code", code, False, True))
    for name, value in ONLY_NAMED.items():
        made.append(Case(name, "names", checkpoint(beside(value)), "opaque", (0, 0, 0, 0)))
    for name, value in NOT_FOLLOWED.items():
        if name == "no stop":
            made.append(Case(name, "not followed", checkpoint(beside(b"N")[:-1])))
            continue
        made.append(Case(name, "not followed", checkpoint(beside(value)), live="call" in name, hostile=True))
    for name, value in LIVE.items():
        if tensor() not in value and tensor()[: -len(ORDERED) - 2] not in value:  # those need a storage elsewhere
            protocol = 4 if b"\x93" in value else 2
            data = b"\x80" + bytes([protocol]) + b"}(" + text("w") + ARRAY + text("m") + value + b"u."
            made.append(Case(name, "bare", data, "would run code", code, True, True, suffix=".pkl"))
    made += [
        Case("a call alone", "bare", b"\x80\x02" + SYSTEM + b".", "would run code", NO_MODEL, True, True, suffix=".pkl"),
        Case("a call alone, protocol 0", "bare", SYSTEM + b".", "would run code", NO_MODEL, True, True, suffix=".pkl"),
        Case("a call in a second pickle", "bare", b"\x80\x02}" + text("w") + ARRAY + b"s." + INNER, "would run code",
             CODES["would run code"], False, True, suffix=".pkl"),
        Case("a call in a storage's file", "bare", IN_A_STORAGE, hostile=True, suffix=".pkl"),
        Case("a name that runs the tests beside it", "calls", checkpoint(beside(named("unittest.__main__", "main"))),
             "would run code", code, True, True, beside={"test_it.py": PYTHON.encode()}),
        Case("a persistent id", "bare", b"\x80\x02}" + text("w") + tensor() + b"s.", suffix=".pkl"),
        Case("a tensor of the model", "calls", checkpoint(bare_tensor(call("models", "make", tensor()))), "would run code",
             NO_MODEL, hostile=True),
        Case("a Parameter of the model", "calls", checkpoint(bare_tensor(
            call("torch._utils", "_rebuild_parameter", call("models", "make", tensor()), b"\x88", b")"))),
             "would run code", NO_MODEL, hostile=True),
        Case("the whole root", "calls", checkpoint(b"\x80\x02" + SYSTEM + b"."), "would run code", NO_MODEL, True, True),
        Case("a call around the state_dict", "calls",
             checkpoint(b"\x80\x02" + call("models", "load", ONE) + b"."), "would run code", NO_MODEL, False, True),
        Case("a second pickle after the first", "not followed",
             checkpoint(beside(b"N") + INNER), hostile=True),
        Case("nothing", "not followed", checkpoint(b"")),
        Case("a stop", "not followed", checkpoint(b"\x80\x02.")),
    ]  # fmt: skip
    return made
