"""Flax's msgpack, with the msgpack package as writer and as judge."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import ckptconv
from ckptconv.core.metadata import Opaque, TensorRef
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import LossError, UnsupportedError
from ckptconv.formats import registry
from ckptconv.io.source import Source
from ckptconv.testing.damage import Judge, Reading
from tests.support.flax_files import restore, to_bytes
from tests.support.nodes import as_node, as_python, load

Array = np.ndarray[Any, Any]

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
RANDOM = np.random.default_rng(0)
WIDE = RANDOM.random((3, 4), np.float32)
TYPES: dict[str, Any] = {
    **{name: name for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8")},
    **{name: name for name in ("uint64", "uint32", "uint16", "uint8", "bool", "complex128", "complex64")},
    **{name: getattr(ml_dtypes, name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz")},
    **{name: getattr(ml_dtypes, name) for name in ("float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn")},
    **{name: getattr(ml_dtypes, name) for name in ("int4", "uint4", "int2", "uint2", "float6_e2m3fn", "float6_e3m2fn")},
}
VALUES: dict[str, Any] = {
    "step": 3, "most": 2**64 - 1, "least": -(2**63), "rate": 1e-3, "nan": float("nan"), "minus": -0.0, "name": "ü",
    "none": None, "flag": True, "raw": b"\0\xff", "complex": 3 - 2j, "list": {"0": 1, "1": {"0": "x"}}, "empty": {},
    "array": [1, [2.5, None]], "long": "x" * 70_000, "wide": list(range(70_000)),
    "scalar": np.float32(2.5), "small": np.int8(-3), "true": np.bool_(True), "turn": np.complex64(1j),
}  # fmt: skip


def dense(*sizes: int) -> dict[str, Array]:
    return {"kernel": RANDOM.random(sizes, np.float32), "bias": RANDOM.random(sizes[-1:], np.float32)}


PARAMS: dict[str, Any] = {
    "Dense_0": dense(4, 3),
    "Norm": {"scale": WIDE[0], "bias": WIDE[1]},
    "cls": WIDE[:1],
    "Dense_1": dense(3, 2),
}
NAMES = [
    "cls", "Dense_0.kernel", "Dense_0.bias", "Norm.scale", "Norm.bias", "Dense_1.kernel", "Dense_1.bias"
]  # fmt: skip
WRITTEN = [*NAMES[1:5], "cls", *NAMES[5:]]
STATS = {"Norm": {"mean": WIDE[0], "var": WIDE[2]}}
ADAM = {"0": {"count": np.array(7, np.int32), "mu": PARAMS, "nu": PARAMS}, "1": {}}
BOTH = [*(f"params.{name}" for name in NAMES), "batch_stats.Norm.mean", "batch_stats.Norm.var"]
EXTRAS = ["opt_state.0.count", *(f"opt_state.0.{part}.{name}" for part in ("mu", "nu") for name in WRITTEN)]
TREES: dict[str, tuple[Any, list[str], list[str]]] = {
    "a model of the hub": (PARAMS, NAMES, []),
    "a TrainState": ({"step": 3, "params": PARAMS, "opt_state": ADAM}, NAMES, EXTRAS),
    "variables": ({"params": PARAMS, "batch_stats": STATS}, BOTH, []),
    "variables of params alone": ({"params": PARAMS}, NAMES, []),
    "a TrainState with statistics": (
        {"step": 3, "params": PARAMS, "opt_state": ADAM, "batch_stats": STATS}, BOTH, EXTRAS
    ),
    "a TrainState of variables": ({"step": 3, "params": {"params": PARAMS, "batch_stats": STATS}}, BOTH, []),
    "a TrainState within": ({"epoch": 3, "state": {"params": PARAMS, "rng": None}}, NAMES, []),
    "an average beside": (
        {"params": {"Dense": dense(2, 2)}, "ema_params": {"Dense": dense(2, 2)}},
        ["Dense.kernel", "Dense.bias"], ["ema_params.Dense.kernel", "ema_params.Dense.bias"],
    ),
    "a module that is called model": (
        {"model": {"embed": {"embedding": WIDE}}, "lm_head": {"kernel": WIDE}},
        ["model.embed.embedding", "lm_head.kernel"], [],
    ),
    "one layer": ({"params": {"Dense_0": {"kernel": WIDE}}}, ["Dense_0.kernel"], []),
    "arrays beside layers": (
        {"params": {"kernel": WIDE, "b": WIDE, "c": WIDE, "d": {"scale": WIDE}}}, ["kernel", "b", "c", "d.scale"], []
    ),
    "a dict in a list": ({"params": {"layers": [{"kernel": WIDE}, {"kernel": WIDE}]}},
                         ["layers.0.kernel", "layers.1.kernel"], []),
}  # fmt: skip


def written(path: Path, tree: Any, chunk: int = 1 << 30) -> Path:
    path.write_bytes(to_bytes(tree, chunk))
    return path


def as_numpy(value: Any) -> Any:
    """What torch loaded, with arrays in the places of tensors."""
    match value:
        case torch.Tensor() if value.dtype is torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        case torch.Tensor():
            return value.numpy()
        case dict():
            return {key: as_numpy(child) for key, child in value.items()}
        case list():
            return [as_numpy(child) for child in value]
        case _:
            return value


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    match theirs:
        case dict():
            assert list(ours) == list(theirs)
            for key, value in theirs.items():
                assert_same(ours[key], value)
        case list():
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                assert_same(one, other)
        case np.ndarray() | np.generic():
            assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
        case _:
            assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("through", [".pth", ".safetensors"])
def test_the_whole_tree_comes_back_with_its_types(through: str, tmp_path: Path) -> None:
    arrays = {
        name: WIDE.astype(dtype) for name, dtype in TYPES.items() if not name.startswith(("float4", "float6", "float8"))
    }
    arrays = {name: array for name, array in arrays.items() if "int4" not in name and "int2" not in name}
    odd = {"none": np.zeros((0, 3)), "one": np.array(2.5), "kernel": WIDE}
    path = written(tmp_path / "a.msgpack", {"params": {"arrays": arrays, "odd": odd}, **VALUES})
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "flax"
        assert checkpoint.metadata.keys() == VALUES.keys()
    ckptconv.convert(path, tmp_path / f"b{through}")
    ckptconv.convert(tmp_path / f"b{through}", tmp_path / "c.pth", allow_loss=["all"])
    assert_same(as_numpy(load(tmp_path / "c.pth", weights_only=False)), restore(path.read_bytes()))
    assert ckptconv.diff(path, tmp_path / f"b{through}").equal
    assert ckptconv.inspect(path).verdict == "plain"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 13, 1000])
def test_every_element_type_has_the_values_that_flax_restores(size: int, tmp_path: Path) -> None:
    codes = RANDOM.integers(0, 256, size, dtype=np.uint8)
    arrays = {}
    for name, dtype in TYPES.items():
        small = np.dtype(dtype).itemsize == 1 and name not in ("int8", "uint8", "bool") and "float8" not in name
        bits = int(name[5]) if name.startswith("float") and small else int(name.removeprefix("u")[3]) if small else 8
        arrays[name] = (codes & ((1 << bits) - 1)).view(dtype) if small else codes.astype(dtype)
    path = written(tmp_path / "a.msgpack", arrays)
    expected = restore(path.read_bytes())
    with ckptconv.open(path) as checkpoint:
        for name, array in expected.items():
            found = checkpoint[name].numpy()
            assert (found.dtype, found.shape) == (array.dtype, array.shape), name
            wide = "complex128" if array.dtype.kind == "c" else "float64"
            assert np.array_equal(found.astype(wide), array.astype(wide), equal_nan=True), name
    with ckptconv.open(path) as checkpoint:
        for tensor in checkpoint.values():
            whole, ends = bytes(tensor.read()), range(0, tensor.info.nbytes + 1, 7 * (1 + size // 50))
            assert len(whole) == tensor.info.nbytes
            assert all(
                bytes(tensor.read(start, end)) == whole[start:end] for start in ends for end in ends if start <= end
            )


@pytest.mark.parametrize(("tree", "model", "extras"), TREES.values(), ids=TREES)
def test_names_are_those_of_the_same_tree_in_a_pickle(
    tree: Any, model: list[str], extras: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.msgpack", tree)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(restore(path.read_bytes())))
    ckptconv.convert(path, tmp_path / "c.pth")
    ckptconv.convert(path, tmp_path / "d.safetensors")
    for name in ("a.msgpack", "b.pkl", "c.pth", "d.safetensors"):
        with ckptconv.open(tmp_path / name) as checkpoint:
            assert (list(checkpoint), list(checkpoint.extras)) == (model, extras), name
            assert not {"params", "batch_stats"} & checkpoint.metadata.keys()
        assert ckptconv.diff(path, tmp_path / name).equal
    assert_same(as_numpy(load(tmp_path / "c.pth")), restore(path.read_bytes()))


def test_a_translated_state_has_one_state_dict_beside_all_else(tmp_path: Path) -> None:
    tree = {"step": 3, "params": PARAMS, "opt_state": ADAM, "batch_stats": STATS}
    path = written(tmp_path / "a.msgpack", tree)
    ckptconv.convert(path, tmp_path / "b.pth", edits=ckptconv.Edits(names=[NameRule("translate", "flax")]))
    loaded: Any = load(tmp_path / "b.pth")
    assert list(loaded) == ["step", "opt_state", "state_dict"]
    assert torch.equal(loaded["state_dict"]["Dense_0.weight"], torch.from_numpy(PARAMS["Dense_0"]["kernel"].T))
    assert torch.equal(loaded["state_dict"]["Norm.running_mean"], torch.from_numpy(STATS["Norm"]["mean"]))
    assert_same(as_numpy(loaded["opt_state"]), restore(path.read_bytes())["opt_state"])


def flat(tree: Any, path: tuple[str, ...] = ()) -> dict[str, Array]:
    if not isinstance(tree, dict):
        return {".".join(path): tree}
    return {name: array for key, child in tree.items() for name, array in flat(child, (*path, key)).items()}


def test_bare_tensors_are_what_flattening_the_params_gives(tmp_path: Path) -> None:
    path = written(tmp_path / "a.msgpack", {"step": 3, "params": PARAMS, "opt_state": ADAM})
    ckptconv.convert(path, tmp_path / "b.safetensors", bare=True)
    found, expected = load_file(tmp_path / "b.safetensors"), flat(restore(path.read_bytes())["params"])
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


@pytest.mark.parametrize("model", ["bert", "gpt2", "vit"])
def test_a_model_of_the_hub_is_what_transformers_makes_of_it_in_torch(model: str, tmp_path: Path) -> None:
    path = OTHERS / f"flax-{model}.msgpack"
    with ckptconv.open(path) as checkpoint:
        expected = flat(restore(path.read_bytes()))
        assert checkpoint.keys() == expected.keys()
        assert all(np.array_equal(tensor.numpy(), expected[name]) for name, tensor in checkpoint.items())
    ckptconv.convert(path, tmp_path / "a.pth", edits=ckptconv.Edits(names=[NameRule("translate", "flax")]))
    ours: Any = load(tmp_path / "a.pth")
    theirs: Any = load(OTHERS / f"torch-of-flax-{model}.pth")
    tied = {"lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert theirs.keys() - tied == ours.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


UNCLEAR: dict[str, tuple[Any, list[str]]] = {
    "arrays in a list": ({"params": {"w": [WIDE, WIDE + 1]}, "opt": WIDE}, ["params.w.0", "params.w.1", "opt"]),
    "keys with dots": ({"params": {"a": {"b.c": WIDE}, "a.b": {"d": WIDE}}}, ["params.a.b.c", "params.a.b.d"]),
    "one name twice": ({"params": {"a": {"b": WIDE}, "a.b": WIDE + 1}}, ["params.a.b", "params.a.b#2"]),
    "keys of bytes": ({"params": {b"a": WIDE}}, ["params.b'a'"]),
    "an array alone": (WIDE, ["tensor"]),
}


@pytest.mark.parametrize(("tree", "names"), UNCLEAR.values(), ids=UNCLEAR)
def test_where_names_would_not_say_which_dict_each_is_a_whole_path(tree: Any, names: list[str], tmp_path: Path) -> None:
    path = written(tmp_path / "a.msgpack", tree)
    with ckptconv.open(path) as checkpoint:
        assert (list(checkpoint), list(checkpoint.extras)) == (names, [])
    ckptconv.convert(path, tmp_path / "b.safetensors")
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert_same(as_numpy(load(tmp_path / "c.pth", weights_only=False)), restore(path.read_bytes()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int4"])
def test_an_array_in_chunks_is_one_tensor(dtype: str, tmp_path: Path) -> None:
    array = RANDOM.integers(-8, 8, (6, 4, 5)).astype(TYPES[dtype])
    path = written(tmp_path / "a.msgpack", {"params": {"a": {"kernel": array, "bias": array[0, 0]}}}, chunk=56)
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["a.kernel", "a.bias"]
        assert np.array_equal(checkpoint["a.kernel"].numpy(), array)
        whole = bytes(checkpoint["a.kernel"].read())
        ends = range(0, len(whole) + 1, 9)
        for start, end in ((start, end) for start in ends for end in ends if start <= end):
            assert bytes(checkpoint["a.kernel"].read(start, end)) == whole[start:end]
    ckptconv.convert(path, tmp_path / "b.safetensors")
    assert ckptconv.diff(path, tmp_path / "b.safetensors").equal


def test_no_array_is_read_when_the_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Source.read_at

    def counting(self: Source, offset: int, length: int) -> memoryview:
        read.append(length)
        return original(self, offset, length)

    monkeypatch.setattr(Source, "read_at", counting)
    arrays = {f"layer_{i}": {"kernel": np.zeros((500, 1000), np.float32)} for i in range(4)}
    with ckptconv.open(written(tmp_path / "a.msgpack", arrays, chunk=1_000_000)) as checkpoint:
        assert len(checkpoint) == 4
        assert checkpoint["layer_0.kernel"].info.nbytes == 2_000_000
    assert sum(read) < 16_384


ORDER = np.array([1.5, -2], ">f4")


@pytest.mark.parametrize(("name", "array"), [("<f4", WIDE[0]), (">f4", ORDER), ("|u1", np.arange(3, dtype=np.uint8))])
def test_numpys_words_for_element_types_are_read_as_numpy_reads_them(name: str, array: Array, tmp_path: Path) -> None:
    data = msgpack.packb([list(array.shape), name, array.tobytes()])
    scalar = msgpack.packb([[], name, array[:1].tobytes()])
    path = tmp_path / "a.msgpack"
    path.write_bytes(msgpack.packb({"a": msgpack.ExtType(1, data), "s": msgpack.ExtType(3, scalar)}))
    expected = restore(path.read_bytes())
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["a"].numpy().tolist() == expected["a"].tolist() == array.tolist()
        assert as_python(checkpoint.metadata["s"]) == expected["s"]


def test_text_in_arrays_is_metadata_although_flax_does_not_read_it_again(tmp_path: Path) -> None:
    texts = {"names": np.array(["ab", "ü"]), "raw": np.array([[b"abc", b""]]), "one": np.str_("xyz")}
    path = written(tmp_path / "a.msgpack", {"params": {"kernel": WIDE}, **texts})
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.metadata == {key: as_node(value) for key, value in texts.items()}
    ckptconv.convert(path, tmp_path / "b.safetensors")
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    loaded: Any = load(tmp_path / "c.pth", weights_only=False)
    assert (loaded["names"].tolist(), loaded["raw"].tolist(), loaded["one"]) == (["ab", "ü"], [[b"abc", b""]], "xyz")


def test_a_scalar_that_numpy_alone_cannot_spell_is_a_tensor(tmp_path: Path) -> None:
    path = written(tmp_path / "a.msgpack", {"params": {"kernel": WIDE}, "scale": ml_dtypes.bfloat16(3)})
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.extras["scale"].info.shape == ()
        assert float(checkpoint.extras["scale"].numpy()) == 3


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_four_bit_floats_that_fill_no_byte_are_refused_where_a_pth_is_written(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.ones(shape, ml_dtypes.float4_e2m1fn)
    path = written(tmp_path / "a.msgpack", {"params": {"kernel": array}})
    with pytest.raises(UnsupportedError, match="F4"):
        ckptconv.convert(path, tmp_path / "b.pth")
    ckptconv.convert(path, tmp_path / "b.pth", edits=ckptconv.Edits(dtype=["kernel=F32"]))
    loaded: Any = load(tmp_path / "b.pth")
    assert torch.equal(loaded["params"]["kernel"], torch.ones(shape))


UNREAD = {
    "float8_e3m4": WIDE.astype(ml_dtypes.float8_e3m4), "float128": WIDE.astype(np.longdouble),
    "datetime64[s]": np.zeros(2, "M8[s]"), "void16": np.zeros(2, "V2"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_an_array_of_another_type_is_shown_and_given_up_with_consent(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.msgpack", {"params": {"a": {"kernel": WIDE, "odd": UNREAD[name]}}}, chunk=20)
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["a.kernel"]
        (finding,) = checkpoint.findings
        assert (finding.code, finding.where) == ("unreadable-tensor", "params.a.odd")
        assert UNREAD[name].dtype.name in finding.message
    with pytest.raises(LossError):
        ckptconv.convert(path, tmp_path / "b.safetensors")
    ckptconv.convert(path, tmp_path / "b.safetensors", allow_loss=["opaque"])


def test_times_and_extensions_of_others_are_kept_as_objects(tmp_path: Path) -> None:
    times = [msgpack.Timestamp(5), msgpack.Timestamp(5, 999_999_999), msgpack.Timestamp(-(2**40), 7)]
    other = msgpack.ExtType(77, b"abc")
    path = tmp_path / "a.msgpack"
    inner = msgpack.packb([1, "x"])
    array = msgpack.ExtType(1, msgpack.packb([[], "float32", bytes(4)]))
    path.write_bytes(msgpack.packb({"params": array, "t": times, "e": other, "tuple": msgpack.ExtType(4, inner)}))
    with ckptconv.open(path) as checkpoint:
        found: Any = checkpoint.metadata
        assert [one.args for one in found["t"]] == [(one.seconds, one.nanoseconds) for one in times]
        assert {one.name for one in found["t"]} == {"msgpack.Timestamp"}
        assert isinstance(found["e"], Opaque)
        assert (found["e"].name, found["e"].args) == ("msgpack.ExtType", (77, b"abc"))
        assert found["tuple"] == (1, "x")
    ckptconv.convert(path, tmp_path / "b.safetensors")
    assert ckptconv.diff(path, tmp_path / "b.safetensors").equal
    with pytest.raises(LossError):
        ckptconv.convert(path, tmp_path / "c.pth")


GONE = object()


def described(tree: Any, path: tuple[str, ...], model: tuple[str, ...], names: dict[str, Array]) -> Any:
    """The metadata in a tree, with the arrays in `names`, those of the model by their paths from `model` on."""
    inside = path[: len(model)] == model
    if isinstance(tree, np.ndarray):
        name = ".".join(path[len(model) :] if inside else path)
        names[name] = tree
        return GONE if inside else TensorRef(name)
    if not isinstance(tree, dict):
        return as_node(tree)
    parts = {key: described(child, (*path, key), model, names) for key, child in tree.items()}
    kept = {key: part for key, part in parts.items() if part is not GONE}
    return kept if kept or not tree else GONE


def reference(path: Path) -> Reading:
    """The tree of `DAMAGED`, or what damage makes of it."""
    tree, arrays = restore(path.read_bytes()), dict[str, Array]()
    in_params = any(isinstance(array, np.ndarray) for array in flat(tree.get("params", {})).values())
    metadata = described(tree, (), ("params",) if in_params else (), arrays)
    names = {dtype: name for name, dtype in DTYPE_NAMES.items()}
    tensors = {name: (names[array.dtype.name], array.shape, array.tobytes()) for name, array in arrays.items()}
    return Reading(tensors, metadata)


DTYPE_NAMES = {"F32": "float32", "I16": "int16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8"}
DAMAGED = {
    "step": 300, "params": {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.ones(1, np.int16)}},
    "more": {"x": -5, "f": 0.5, "s": "text", "n": None, "b": b"raw"}, "scalar": np.float32(2),
}  # fmt: skip


@pytest.mark.parametrize("chunk", [1 << 30, 12])
def test_damage_is_refused_or_read_as_flax_reads_it(chunk: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.msgpack", DAMAGED, chunk)
    judge = Judge(registry.by_name("flax"), path, reference)
    judge.truncations()
    assert judge.verdicts.read == 0
    judge.bit_flips(judge.header_bytes(path))
    assert not judge.verdicts.failures, judge.verdicts.text()
    assert judge.verdicts.read
