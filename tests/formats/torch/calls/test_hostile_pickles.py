"""Pickles made to run code, to fill the memory or never to end: refused by name, quickly, and nothing is called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsafeError, UnsupportedError
from ckptconv.testing.damage import limited_memory
from tests.hostile.bombs import doubling
from tests.support.craft import FOUR_FLOATS, archive, state_dict, tensor, text
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from pathlib import Path

STORAGES = {"0": FOUR_FLOATS}
RUN = text("touch {canary}")
ORDERED = b"ccollections\nOrderedDict\n)RtR"
ONE_ARG = RUN + b"\x85"
DATA = b"\x96" + (3).to_bytes(8, "little") + b"abc"


def reduced(module: str, name: str, args: bytes = ONE_ARG) -> bytes:
    return f"c{module}\n{name}\n".encode() + args + b"R"


def chained() -> bytes:
    """getattr(getattr(x, "__class__"), "mro")(…) and the like: what is called was itself computed."""
    module = reduced("importlib", "import_module", text("os") + b"\x85")
    return b"cbuiltins\ngetattr\n" + module + text("system") + b"\x86R" + ONE_ARG + b"R"


WOULD_RUN_CODE = {
    "os.system, only named": b"cos\nsystem\n",
    "os.system": reduced("os", "system"),
    "posix.system": reduced("posix", "system"),
    "nt.system": reduced("nt", "system"),
    "subprocess": reduced("subprocess", "Popen"),
    "eval": reduced("builtins", "eval"),
    "exec": reduced("builtins", "exec"),
    "python 2's eval": reduced("__builtin__", "eval"),
    "compile": reduced("builtins", "compile"),
    "getattr chain": chained(),
    "stack global": b"\x80\x04" + text("os") + text("system") + b"\x93" + ONE_ARG + b"R",
    "dotted name": b"\x80\x04" + text("os") + text("path.join") + b"\x93" + ONE_ARG + b"R",
    "INST": b"(" + RUN + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + RUN + b"o",
    "copyreg with a function": reduced("copyreg", "__newobj__", b"cos\nsystem\n" + RUN + b"\x86"),
    "copyreg with a base of its own": reduced(
        "copyreg", "_reconstructor", b"csubprocess\nPopen\nq\x30h\x30" + RUN + b"\x87"
    ),
    "a function of a module of harmless classes": reduced("uuid", "_get_command_stdout"),
    "thrown away": reduced("os", "system") + b"0N",
    "thrown away by a mark": b"(" + reduced("os", "system") + b"1N",
    "kept in the memo alone": reduced("os", "system") + b"q\x300N",
    "overwritten": b"}K\x01" + reduced("os", "system") + b"sK\x01Ns",
    "a key": b"}" + reduced("os", "system") + b"Ns",
    "in a key": b"}" + reduced("os", "system") + b"\x85Ns",
    "in a set": b"\x8f(" + reduced("os", "system") + b"\x90",
    "an attribute of a tensor": tensor() + b"}" + text("a") + reduced("os", "system") + b"sb",
    "an attribute of an OrderedDict": b"ccollections\nOrderedDict\n)R}" + text("a") + reduced("os", "system") + b"sb",
    "a hook of a tensor": tensor()[: -len(ORDERED)] + reduced("os", "system") + b"tR",
    "a state that another replaces": b"cm\nC\n)\x81" + reduced("os", "system") + b"bNb",
    "iter of a function": reduced("builtins", "iter", b"cmodels\nrun\nK\x01\x86"),
    "iter of an object": reduced("builtins", "iter", b"cmodels\nItems\n)\x81\x85"),
    "an iterator's place that is an object": reduced("builtins", "iter", b"]\x85") + b"cmodels\nPlace\n)\x81b",
    "partial, called": reduced("functools", "partial", b"cos\nsystem\n\x85") + ONE_ARG + b"R",
    "torch.load": reduced("torch", "load"),
    "a namespace, of something": reduced("ultralytics.utils", "IterableSimpleNamespace"),
    "torch.hub": reduced("torch.hub", "load"),
    "runpy": reduced("runpy", "run_path"),
    "pickle.loads": reduced("pickle", "loads"),
    "webbrowser": reduced("webbrowser", "open"),
    "torch's version of an object, whose text it asks": b"ctorch.torch_version\nTorchVersion\ncm\nC\n)\x81\x85\x81",
    "NEWOBJ of something computed": reduced("os", "getcwd", b")") + b")\x81",
    "NEWOBJ of tuples 300,000 deep": b")" + b"\x85" * 300_000 + b")\x81",
    "called with keywords": reduced("os", "getcwd", b")") + b")}\x92",
    "harmless module, dotted": b"\x80\x04" + text("pathlib") + text("os.system") + b"\x93" + ONE_ARG + b"R",
    "NEWOBJ of a function": b"cos\nsystem\n" + ONE_ARG + b"\x81",
    "getattr with a default": b"cbuiltins\ngetattr\ncos\npath\n" + text("x") + b"N\x87R",
}
PARTIAL = reduced("functools", "partial", b"ccollections\ndefaultdict\n\x85")
OPAQUE = {
    "a function, only named": (b"cmodels\nrun\n", "named"),
    "NEWOBJ": (b"cmodels\nNet\n)\x81}" + text("width") + b"K\x03sb", "object"),
    "NEWOBJ_EX": (b"cmodels\nNet\n)}" + text("k") + b"K\x01s\x92", "object"),
    "copyreg._reconstructor": (reduced("copyreg", "_reconstructor", b"cm\nNet\ncbuiltins\nobject\nN\x87"), "object"),
    "pathlib": (reduced("pathlib", "PosixPath", text("/") + text("tmp") + b"\x86"), "constructed"),
    "datetime": (reduced("datetime", "date", DATA + b"\x85"), "constructed"),
    "decimal": (reduced("decimal", "Decimal", text("1.5") + b"\x85"), "constructed"),
    "partial": (reduced("functools", "partial", b"ctorch.nn.modules.normalization\nLayerNorm\n\x85"), "constructed"),
    "partial, of a function": (reduced("functools", "partial", b"cmodels\nrun\n\x85"), "constructed"),
    "an enum of a library's": (
        reduced("transformers.trainer_utils", "HubStrategy", text("end") + b"\x85"),
        "constructed",
    ),
    "a defaultdict of defaultdicts": (reduced("collections", "defaultdict", PARTIAL + b"\x85"), "constructed"),
    "settings of Ultralytics'": (
        reduced("ultralytics.utils", "IterableSimpleNamespace", b")") + b"}" + text("lr") + b"K\x01sb",
        "constructed",
    ),
    "a list of things": (b"cm\nList\n)\x81(K\x01K\x02e", "object"),
    "a dict of things": (b"cm\nDict\n)\x81(" + text("a") + b"K\x02u", "object"),
}


def pickled(value: bytes, canary: Path) -> bytes:
    """A state_dict with a tensor, and `value` beside it; `{canary}` becomes a path of the same length."""
    return state_dict(state_dict=state_dict_of_one(), m=value.removeprefix(b"\x80\x04"))


def state_dict_of_one() -> bytes:
    return b"}" + text("w") + tensor() + b"s"


@pytest.fixture
def quiet_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which a command that runs would leave a file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("value", WOULD_RUN_CODE.values(), ids=WOULD_RUN_CODE.keys())
def test_a_call_is_shown_refused_and_never_made(value: bytes, quiet_folder: Path) -> None:
    path = archive(quiet_folder / "bad.pth", pickled(value, quiet_folder), STORAGES)
    before = set(os.listdir(quiet_folder))

    found = ckptconv.inspect(path)
    assert found.verdict == "would run code"
    assert any(use.runs for use in found.opaque)
    with pytest.raises(UnsafeError, match="would run code") as refused:
        ckptconv.convert(path, quiet_folder / "out.safetensors")
    assert refused.value.hint
    with pytest.raises(UnsafeError):
        ckptconv.convert(path, quiet_folder / "out.safetensors", allow_loss=["metadata"])
    assert set(os.listdir(quiet_folder)) == before


@pytest.mark.parametrize("target", ["out.safetensors", "out.pth"])
@pytest.mark.parametrize("value", WOULD_RUN_CODE.values(), ids=WOULD_RUN_CODE.keys())
def test_the_model_comes_out_whole_where_no_tensor_hangs_on_the_call(
    value: bytes, target: str, quiet_folder: Path
) -> None:
    path = archive(quiet_folder / "bad.pth", pickled(value, quiet_folder), STORAGES)
    ckptconv.convert(path, quiet_folder / target, bare=True)
    with ckptconv.open(quiet_folder / target) as bare:
        assert bytes(bare["w"].read()) == FOUR_FLOATS
        assert bare.metadata == {}
    ckptconv.convert(path, quiet_folder / target, allow_loss=["opaque"], force=True)
    assert ckptconv.inspect(quiet_folder / target).verdict == "plain" or target == "out.safetensors"
    with ckptconv.open(quiet_folder / target) as kept:
        assert "m" in kept.metadata or value.startswith(tensor()[:-3])
    assert set(os.listdir(quiet_folder)) == {"bad.pth", target}


@pytest.mark.parametrize(("value", "how"), OPAQUE.values(), ids=OPAQUE.keys())
def test_an_unknown_class_is_kept_as_data(value: bytes, how: str, quiet_folder: Path) -> None:
    path = archive(quiet_folder / "odd.pth", pickled(value, quiet_folder), STORAGES)
    found = ckptconv.inspect(path)
    assert (found.verdict, found.opaque[0].where, found.opaque[0].node.how) == ("opaque", "m", how)
    ckptconv.convert(path, quiet_folder / "kept.safetensors")
    assert ckptconv.inspect(quiet_folder / "kept.safetensors").opaque[0].to_dict() == found.opaque[0].to_dict()
    with pytest.raises(CkptconvError, match="loss"):
        ckptconv.convert(path, quiet_folder / "lost.pth")
    ckptconv.convert(path, quiet_folder / "lost.pth", allow_loss=["opaque"])
    assert ckptconv.inspect(quiet_folder / "lost.pth").verdict == "plain"


@pytest.mark.parametrize("wrapped", ["result", "argument"])
def test_a_model_whose_tensor_hangs_on_a_call_is_refused_whatever_is_agreed_to(
    wrapped: str, quiet_folder: Path
) -> None:
    call = reduced("models", "make", tensor() + b"\x85")
    value = call if wrapped == "result" else reduced("torch._utils", "_rebuild_parameter", call + b"\x88)\x87")
    path = archive(quiet_folder / "bad.pth", state_dict(w=tensor(), v=value), STORAGES)
    for options in ({}, {"bare": True}, {"allow_loss": ["all"]}):
        with pytest.raises(CkptconvError):
            ckptconv.convert(path, quiet_folder / "out.safetensors", **options)
    assert os.listdir(quiet_folder) == ["bad.pth"]


def test_a_module_that_is_named_would_be_imported_which_is_no_plain_file(quiet_folder: Path) -> None:
    for value in (b"cevil\nthing\n0N", tensor(storage="FloatStorage").replace(b"ctorch\nFloat", b"cevil\nFloat")):
        path = archive(quiet_folder / "x.pth", pickled(value, quiet_folder), STORAGES)
        assert ckptconv.inspect(path).verdict == "opaque"


def test_the_globals_that_a_pickle_names_are_listed(quiet_folder: Path) -> None:
    path = archive(quiet_folder / "x.pth", pickled(reduced("os", "system") + b"0cos\nunlink\n", quiet_folder), STORAGES)
    with ckptconv.open(path) as checkpoint:
        uses = {use.name: use.called for use in checkpoint.notes.globals}
    assert (uses["os.system"], uses["os.unlink"], uses["torch._utils._rebuild_tensor_v2"]) == (True, False, True)


NESTED = 10_000
HOSTILE: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "lists 10,000 deep": (b"]" * NESTED + b"a" * (NESTED - 1), LimitError),
    "tuples 300,000 deep": (b")" + b"\x85" * 300_000, LimitError),
    "objects 10,000 deep": (b"cm\nC\n)\x81" * NESTED + b"b" * (NESTED - 1), LimitError),
    "arguments 10,000 deep": (b"cm\nC\n" * NESTED + b")" + b"\x81\x85" * (NESTED - 1) + b"\x81", LimitError),
    "a key of tuples 300,000 deep": (b"})" + b"\x85" * 300_000 + b"Ns", LimitError),
    "a set of tuples 300,000 deep": (b"\x8f()" + b"\x85" * 300_000 + b"\x90", LimitError),
    "a frozenset of tuples 300,000 deep": (b"()" + b"\x85" * 300_000 + b"\x91", LimitError),
    "set() of tuples 300,000 deep": (b"cbuiltins\nset\n])" + b"\x85" * 300_000 + b"a\x85R", LimitError),
    "a billion laughs": (b"]" + doubling(b"](" + b"?" * 10 + b"e", 9), LimitError),
    "a billion laughs in tuples": (b")" + doubling(b"??\x86", 60), LimitError),
    "a billion laughs in a key": (b"})" + doubling(b"??\x86", 60) + b"Ns", LimitError),
    "a billion laughs in a set": (b"\x8f()" + doubling(b"??\x86", 60) + b"\x90", LimitError),
    "one list copied a million times": (
        b"](" + b"N" * 5000 + b"eq\x00" + b"cbuiltins\nlist\nq\x010" + b"h\x01h\x00\x85R0" * 20_000,
        LimitError,
    ),
    "state_dicts in state_dicts, 10,000 deep": (
        (b"}" + text("w") + tensor() + b"s" + text("state_dict")) * 10_000 + b"N" + b"s" * 10_000,
        LimitError,
    ),
    "one list as attribute of 1,000 tensors": (
        b"](" + b"N" * 5000 + b"eq\x000](" + (tensor() + b"}" + text("a") + b"h\x00sb") * 1_000 + b"e",
        LimitError,
    ),
    "thirty lists, each in every other": (
        b"".join(b"]q%c0" % i for i in range(30))
        + b"".join(b"h%c(" % i + b"".join(b"h%c" % j for j in range(30) if j != i) + b"e0" for i in range(30))
        + b"h\x00",
        LimitError,
    ),
    "an int of 10,000 decimal digits": (b"I" + b"9" * 10_000 + b"\n", CorruptFileError),
    "a string longer than the pickle": (b"X\xff\xff\xff\xff", CorruptFileError),
    "bytes of 2^63": (b"\x8e" + b"\xff" * 7 + b"\x7f", CorruptFileError),
    "a frame past the end": (b"\x95" + b"\xff" * 8, CorruptFileError),
    "bytearray(10^10)": (b"cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R", CorruptFileError),
    "a bad opcode": (b"\xff", CorruptFileError),
    "an extension": (b"\x82\x01", CorruptFileError),
    "a buffer that is elsewhere": (b"\x97", CorruptFileError),
    "a memo that was never set": (b"j\xff\xff\xff\xff", CorruptFileError),
    "a list as a key": (b"}]Ns", CorruptFileError),
    "an odd number of items": (b"}(Nu", CorruptFileError),
    "a tensor in a set": (b"cbuiltins\nset\n(" + tensor() + b"l\x85R", UnsupportedError),
    "an unknown layout": (reduced("torch.serialization", "_get_layout", text("x") + b"\x85"), CorruptFileError),
    "a layout 300,000 deep": (
        reduced("torch.serialization", "_get_layout", b")" + b"\x85" * 300_001),
        CorruptFileError,
    ),
    "a float that is none": (b"Fabc\n", CorruptFileError),
    "a state for an int": (b"K\x01}b", CorruptFileError),
}


@pytest.mark.parametrize(("value", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_in_little_time_and_memory(
    value: bytes, error: type[CkptconvError], tmp_path: Path
) -> None:
    path = archive(tmp_path / "bad.pth", state_dict(w=tensor(), m=value), STORAGES)
    with at_most(4), limited_memory(512 << 20), pytest.raises(error) as refused:
        ckptconv.open(path)
    assert refused.value.hint
    assert refused.value.path == path
    assert len(str(refused.value)) < 2000


def test_a_huge_memo_index_costs_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "memo.pth", state_dict(w=tensor(), m=b"]r\xff\xff\xff\xff"), STORAGES)
    with limited_memory(64 << 20), ckptconv.open(path) as checkpoint:
        assert checkpoint.metadata == {"m": []}


@pytest.mark.parametrize(
    "ending", [b"", b"N", b".junk", b"0.", b"(."], ids=["no stop", "two values", "junk", "none", "mark"]
)
def test_a_pickle_that_does_not_end_as_it_should_is_refused(ending: bytes, tmp_path: Path) -> None:
    data = state_dict(w=tensor())[:-1] + ending
    with pytest.raises(CorruptFileError):
        ckptconv.open(archive(tmp_path / "bad.pth", data + (b"." if ending == b"N" else b""), STORAGES))


@pytest.mark.parametrize("depth", [30, 60])
def test_what_is_read_at_the_deepest_nesting_can_be_written_to_every_format(depth: int, tmp_path: Path) -> None:
    values = {
        "lists": b"]" * depth + b"a" * (depth - 1),
        "dicts": (b"}" + text("k")) * depth + b"N" + b"s" * depth,
        "int dicts": b"}K\x01" * depth + b"N" + b"s" * depth,
        "objects": b"cm\nC\n)\x81" * depth + b"b" * (depth - 1),
        "arguments": b"cm\nC\n" * depth + b")" + b"\x81\x85" * (depth - 1) + b"\x81",
    }
    for name, value in values.items():
        path = archive(tmp_path / f"{name}.pth", state_dict(w=tensor(), m=value), STORAGES)
        between, back = tmp_path / f"{name}.safetensors", tmp_path / f"{name}-back.pth"
        ckptconv.convert(path, between, allow_loss=["opaque"])
        ckptconv.convert(between, back, allow_loss=["opaque"])
        try:
            ckptconv.open(back).close()
        except LimitError:
            assert depth == 60  # an object takes two levels where it is written as plain dicts
            assert name in ("objects", "arguments")


@pytest.mark.parametrize(
    ("module", "owner", "attribute", "verdict"),
    [
        ("mine", "Model", "Config", "opaque"), ("subprocess", "Popen", "x", "would run code"),
        ("mine", "Model", "ABCMeta", "would run code"), ("weakref", "ref", "x", "would run code"),
        ("pathlib", "Path", "home", "would run code"), ("torch.utils.data", "DataLoader", "x", "would run code"),
        ("torch.nn", "Module", "Inner", "opaque"), ("random", "Random", "choice", "would run code"),
    ],
)  # fmt: skip
def test_a_class_in_a_class_is_judged_alike_in_every_protocol(
    module: str, owner: str, attribute: str, verdict: str, tmp_path: Path
) -> None:
    new = b")\x81}" + text("a") + b"K\x01sb."
    by_getattr = b"cbuiltins\ngetattr\n" + f"c{module}\n{owner}\n".encode() + text(attribute) + b"\x86R"
    by_name = text(module) + text(f"{owner}.{attribute}") + b"\x93"
    for start, cls in ((b"\x80\x03", by_getattr), (b"\x80\x04", by_name)):
        (tmp_path / "a.pkl").write_bytes(start + cls + new)
        assert ckptconv.inspect(tmp_path / "a.pkl").verdict == verdict
