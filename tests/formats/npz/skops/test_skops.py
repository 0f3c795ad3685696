"""Files of skops: what it says itself of each stands in fixtures/others/skops, with the arrays that it loads."""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ckptconv
from ckptconv.core import names
from ckptconv.core.metadata import NumpyArray, NumpyScalar, Opaque
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.npz.skops import read as reader
from tests.formats.torch.judges import assert_detected_whatever_its_name
from tests.support.reads import bytes_read
from tests.support.stopwatch import at_most

SKOPS = Path(__file__).parents[4] / "fixtures" / "others" / "skops"
UNTRUSTED: dict[str, Any] = json.loads((SKOPS / "untrusted.json").read_text())
CRAFTED: dict[str, Any] = json.loads((SKOPS / "crafted.json").read_text())
NAMES = ["forest.skops", "kinds.skops", "model.skops"]

MADE_UNASKED = {
    "an operator under another name": "operator.list",
    "a method of another type": "builtins.str.upper",
    "a generator": "numpy.random.seed",
    "a generator whose name stands elsewhere": "numpy.random.seed",
}
"""What some release of skops made, or would have, without naming it as what it asks to be trusted."""


def packed(path: Path, schema: object, **files: bytes) -> Path:
    """A file of skops with that schema."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("schema.json", schema if isinstance(schema, (str, bytes)) else json.dumps(schema))
        for name, data in files.items():
            file.writestr(name, data)
    return path


def node(type_: str, loader: str, **rest: Any) -> dict[str, Any]:
    module, _, name = type_.rpartition(".")
    return {"__class__": name, "__module__": module, "__loader__": loader, "protocol": 2, **rest}


def plain(value: object) -> dict[str, Any]:
    return node("builtins.str", "JsonNode", content=json.dumps(value))


def these(*nodes: object) -> dict[str, Any]:
    return node("builtins.list", "ListNode", content=[*nodes])


def array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_what_runs_if_it_is_trusted_is_what_skops_asks_for(name: str) -> None:
    found = ckptconv.inspect(SKOPS / name)
    assert found.verdict == "opaque"
    assert sorted(use.node.name for use in found.runs_if) == UNTRUSTED[name]
    assert {(use.by, use.only_if) for use in found.runs_if} <= {("skops", "trusted=[…]")}


@pytest.mark.parametrize("case", CRAFTED)
def test_what_nobody_writes_is_reported_as_skops_does_or_by_what_it_makes(case: str, tmp_path: Path) -> None:
    found = ckptconv.inspect(packed(tmp_path / "x.skops", CRAFTED[case]))
    calls = [use.node.name for use in found.opaque if use.runs]
    assert calls == ([MADE_UNASKED[case]] if case in MADE_UNASKED else [])
    assert (found.verdict == "would run code") == (case in MADE_UNASKED)
    if case not in MADE_UNASKED:
        assert sorted(use.node.name for use in found.runs_if) == UNTRUSTED[case]


def test_arrays_are_what_skops_loads_and_what_it_shares_is_tied() -> None:
    for key, expected in np.load(SKOPS / "read.npz").items():
        file, name = key.split("|")
        with ckptconv.open(SKOPS / file) as checkpoint:
            found = checkpoint[name].numpy()
        assert (found.dtype, found.shape) == (expected.dtype.newbyteorder("="), expected.shape)
        assert found.tobytes() == expected.astype(found.dtype).tobytes()
    with ckptconv.open(SKOPS / "kinds.skops") as checkpoint:
        assert checkpoint.ties == [
            ["state.state.state.key", "shared.0.state.state.key", "shared.1.state.state.key"],
        ]


def test_values_keep_their_types() -> None:
    with ckptconv.open(SKOPS / "kinds.skops") as checkpoint:
        said: dict[Any, Any] = checkpoint.metadata
        unread = [one.where for one in checkpoint.findings if one.code == "unreadable-tensor"]
    assert said["plain"][:6] == [1, "x", None, True, 1.5, 2**70]
    assert said["plain"][7:] == [(1,), {2}]
    assert said["keys"] == {1: "int", 2.5: "float"}
    assert (type(said["ordered"]), said["default"]) == (OrderedDict, defaultdict(list, a=[1]))
    assert (said["bytes"], said["bytearray"]) == (b"xyz", bytearray(b"q"))
    assert said["scalar"] == NumpyScalar("<f8", np.float64(3).tobytes())
    assert said["texts"] == NumpyArray("<U2", (2,), np.array(["a", "bc"]).tobytes())
    assert (said["function"].name, said["function"].how) == ("numpy.log1p", "named")
    assert said["objects"].args[0] == ["a", None]
    assert isinstance(said["method"], Opaque)
    assert unread == ["sparse", "dates"]


def test_its_arrays_go_to_safetensors_and_what_is_not_read_needs_consent(tmp_path: Path) -> None:
    ckptconv.convert(SKOPS / "model.skops", tmp_path / "a.safetensors", bare=True)
    expected = np.load(SKOPS / "read.npz")["model.skops|state.steps.2.1.state.coef_"]
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["state.steps.2.1.state.coef_"], expected)
    with pytest.raises(CkptconvError) as caught:
        ckptconv.convert(SKOPS / "forest.skops", tmp_path / "b.safetensors")
    assert "nodes' is not read: " in caught.value.details[0]


def test_a_schema_is_known_in_every_spelling_that_skops_reads(tmp_path: Path) -> None:
    """Python's JSON takes escapes in keys, and UTF-16."""
    schema = json.dumps(CRAFTED["a generator"])
    found = ckptconv.inspect(packed(tmp_path / "a.skops", schema.replace("__loader__", "\\u005f_loader_\\u005f")))
    assert found.verdict == "would run code"
    with pytest.raises(CorruptFileError, match="is not JSON"):
        ckptconv.inspect(packed(tmp_path / "b.skops", schema.encode("utf-16")))


def test_it_gets_the_same_verdict_in_a_folder_and_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    packed(tmp_path / "a" / "x.skops", CRAFTED["a function"])
    packed(tmp_path / "a" / "y.dat", CRAFTED["a generator"])
    (tmp_path / "a" / "z.skops").write_bytes((SKOPS / "model.skops").read_bytes())
    found = ckptconv.inspect(tmp_path / "a")
    assert found.verdict == "would run code"
    assert [(use.where, use.node.name) for use in found.runs_if] == [("x.skops", "os.system")]
    assert [(use.where.partition(":")[0], use.node.name) for use in found.opaque if use.runs] == [
        ("y.dat", "numpy.random.seed")
    ]


def test_a_file_of_its_own_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes((SKOPS / "model.skops").read_bytes())
    assert_detected_whatever_its_name(path, "skops")


@pytest.mark.parametrize("loader", ["TypeNode", "SparseMatrixNode", "NdArrayNode"])
def test_a_long_key_is_not_written_out_for_each_of_what_is_below_it(
    loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "numpy.ndarray" if loader == "NdArrayNode" else "a.b"
    nodes = [node(f"{own}{'' if own != 'a.b' else i}", loader, type="numpy", file="a.npy") for i in range(20)]
    types, content = these(node("builtins.str", "TypeNode")), {"k" * 1000: these(*nodes)}
    schema = node("builtins.dict", "DictNode", content=content, key_types=types)
    path = packed(tmp_path / "x.skops", schema, **{"a.npy": array(np.zeros(1, "f4"))})
    ckptconv.inspect(path)
    monkeypatch.setattr(names, "MAX_NAMES", 10_000)
    with pytest.raises(LimitError, match="more than 10,000 characters"):
        ckptconv.open(path)


DICT = node("builtins.dict", "DictNode", content={"a": plain(1)}, key_types=these())
REFUSED = {
    "no loader": ({"__class__": "a", "__module__": "b", "protocol": 2, "x": "__loader__"}, "has no '__loader__'"),
    "another loader": (node("a.b", "MyNode"), "has the loader 'MyNode' of the type 'a.b', which is not known here"),
    "no protocol": ({**plain(1), "protocol": None}, "has no protocol"),
    "a newer protocol": ({**plain(1), "protocol": 3}, "protocol 3 of skops; known are 0 to 2"),
    "a part of itself": ({**these({"__id__": 3, "__loader__": "CachedNode"}), "__id__": 3}, "is a part of itself"),
    "a node of nothing": (node("a.b", "CachedNode", __id__=1), "stands for a node that was not there before"),
    "no node": (these(1), r"'\[0\]' is not a node"),
    "no JSON": (node("builtins.str", "JsonNode", content="{"), "its root is not JSON"),
    "keys without types": (DICT, "has 1 entries, and types of 0 keys"),
    "types of keys in no list": (
        node("builtins.dict", "DictNode", content={}, key_types=node("builtins.int", "TypeNode", content=5)),
        "has no list of the types of its keys",
    ),
    "a file that is not there": (
        node("numpy.ndarray", "NdArrayNode", type="numpy", file="1.npy"), "names '1.npy', which is not in the archive"
    ),
    "an array of no kind": (node("numpy.ndarray", "NdArrayNode", type="x", file="a.npy"), "stored in no known way"),
    "an array that is cut": (node("numpy.ndarray", "NdArrayNode", type="numpy", file="cut.npy"), "ask for 24"),
    "an id of no kind": ({**plain(1), "__id__": [1]}, "has no number for its __id__"),
    "not an object": ([plain(1)], "is not a JSON object"),
    "a generator of no kind": (
        node("x.y", "RandomGeneratorNode", content={"bit_generator": plain(1)}), "a random generator of no known kind"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_none_of_skops_is_refused_by_name(what: str, tmp_path: Path) -> None:
    schema, said = REFUSED[what]
    path = packed(tmp_path / "x.skops", schema, **{"a.npy": array(np.ones(3)), "cut.npy": array(np.ones(3))[:-1]})
    with pytest.raises((CorruptFileError, UnsupportedError), match=said) as caught:
        ckptconv.open(path)
    assert caught.value.path == path


def nested(depth: int) -> dict[str, Any]:
    found = plain(1)
    for _ in range(depth):
        found = these(found)
    return found


def doubled(times: int) -> dict[str, Any]:
    """Lists of two nodes, the second of which is the first."""
    found: dict[str, Any] = {**plain(1), "__id__": 1}
    for number in range(times):
        found = {**these(found, {"__id__": number + 1}), "__id__": number + 2}
    return found


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (nested(100), "more than 64 levels deep"),
        (doubled(40), "more than 100,000 values"),
        (node("builtins.str", "JsonNode", content="[" * 90 + "]" * 90), "more than 64 levels deep"),
    ],
    ids=["deep", "shared", "deep JSON"],
)
def test_a_small_file_cannot_ask_for_much(schema: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "x.skops", schema)
    with at_most(2), pytest.raises(LimitError, match=said):
        ckptconv.open(path)


def test_a_schema_that_is_too_large_is_refused_and_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "x.skops", b" " * 200 + json.dumps(plain(1)).encode())
    monkeypatch.setattr(reader, "MAX_SCHEMA", 100)
    with pytest.raises(LimitError, match=r"'schema\.json' has"):
        ckptconv.inspect(path)
    monkeypatch.setattr(reader, "MAX_SCHEMA", 1000)
    monkeypatch.setattr(reader, "MAX_SCHEMA_VALUES", 4)
    with pytest.raises(LimitError, match="more than 4 values"):
        ckptconv.inspect(path)


def test_every_cut_of_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = (SKOPS / "forest.skops").read_bytes()
    path = tmp_path / "x.skops"
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        with pytest.raises(CkptconvError):
            ckptconv.open(path)


def test_opening_reads_no_element_of_an_array(tmp_path: Path) -> None:
    big = array(np.zeros(1 << 20))
    schema = node("numpy.ndarray", "NdArrayNode", type="numpy", file="1.npy")
    with ckptconv.open(packed(tmp_path / "x.skops", schema, **{"1.npy": big})) as checkpoint:
        assert list(checkpoint) == ["tensor"]
        assert bytes_read(checkpoint) < 1 << 17
        assert checkpoint["tensor"].span is not None
