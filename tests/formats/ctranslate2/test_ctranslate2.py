"""Models of CTranslate2: their variables are what its converter wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError

MODELS = Path(__file__).parents[3] / "fixtures" / "others" / "ctranslate2"
KINDS = ("float32", "bfloat16", "int16", "int8")
NAMES = {"float32": "F32", "int8": "I8", "int16": "I16", "int32": "I32", "float16": "F16", "bfloat16": "BF16"}
LINEAR = "decoder/layer_0/self_attention/linear_0/weight"


@pytest.mark.parametrize("kind", KINDS)
def test_every_variable_is_what_the_converter_wrote(kind: str, tmp_path: Path) -> None:
    with np.load(MODELS / "read.npz") as file:
        header, data = json.loads(str(file[f"{kind}-header"])), bytes(file[f"{kind}-data"])
    written, aliases, at = {}, {}, 0
    for name, said in header.items():
        if isinstance(said, str):
            aliases[name] = said
            continue
        dtype, shape, nbytes = said
        written[name] = NAMES[dtype], tuple(shape), data[at : at + nbytes]
        at += nbytes
    with ckptconv.open(MODELS / f"gpt2-{kind}.bin") as checkpoint:
        assert checkpoint.format == "ctranslate2"
        found = {name: (one.info.dtype.name, one.info.shape, bytes(one.read())) for name, one in checkpoint.items()}
        scales = {f"{alias}_scale": f"{name}_scale" for alias, name in aliases.items() if f"{name}_scale" in written}
        expected = written | {alias: written[name] for alias, name in (aliases | scales).items()}
        assert found == {renamed(name): value for name, value in expected.items()}
        assert all(
            checkpoint[renamed(alias)].alias == checkpoint[renamed(name)].alias
            for alias, name in (aliases | scales).items()
        )
        assert checkpoint.metadata["spec"] == "TransformerDecoderSpec"
    ckptconv.convert(MODELS / f"gpt2-{kind}.bin", tmp_path / "x.safetensors")
    assert ckptconv.diff(MODELS / f"gpt2-{kind}.bin", tmp_path / "x.safetensors").equal


def renamed(name: str) -> str:
    """What is divided by is not called as others call what they multiply with."""
    return f"{name.removesuffix('_scale')}_inverse_scale" if name.endswith("_scale") else name


@pytest.mark.parametrize("kind", ["int8", "int16"])
@pytest.mark.parametrize("way", ["x.safetensors", "x.h5", "x.npz", "x.msgpack", "x.gguf"])
def test_integers_in_another_file_become_the_same_plain_weights(kind: str, way: str, tmp_path: Path) -> None:
    plain = ckptconv.Edits(dequantize=True)
    ckptconv.convert(MODELS / f"gpt2-{kind}.bin", tmp_path / "at-once.safetensors", edits=plain)
    for bare in (False, True):
        ckptconv.convert(MODELS / f"gpt2-{kind}.bin", tmp_path / way, bare=bare, force=True)
        ckptconv.convert(tmp_path / way, tmp_path / "later.safetensors", edits=plain, force=True)
        assert ckptconv.diff(tmp_path / "at-once.safetensors", tmp_path / "later.safetensors", bare=bare).equal


def test_integers_of_which_a_file_says_nothing_are_not_taken_for_those_of_others(tmp_path: Path) -> None:
    made = ckptconv.convert(MODELS / "gpt2-int8.bin", tmp_path / "x.pth")
    [told] = [one for one in made.findings if one.code == "quantized"]
    assert "which torch does not say" in told.message
    with pytest.raises(CkptconvError):
        ckptconv.convert(tmp_path / "x.pth", tmp_path / "y.pth", edits=ckptconv.Edits(dequantize=True))


def test_renamed_integers_are_still_weights_and_torn_ones_are_not(tmp_path: Path) -> None:
    ckptconv.convert(
        MODELS / "gpt2-int8.bin", tmp_path / "x.safetensors", edits=ckptconv.Edits(names=[NameRule("add-prefix", "m/")])
    )
    ckptconv.convert(tmp_path / "x.safetensors", tmp_path / "y.pth", edits=ckptconv.Edits(dequantize=True))
    with ckptconv.open(tmp_path / "y.pth") as made:
        assert made[f"m/{LINEAR}"].info.dtype is DType.F32
    ckptconv.convert(
        MODELS / "gpt2-int8.bin", tmp_path / "z.safetensors", edits=ckptconv.Edits(drop=[f"{LINEAR}_inverse_scale"])
    )
    with ckptconv.open(tmp_path / "z.safetensors") as made:
        assert LINEAR in made
        assert made.notes.quantized
        assert LINEAR not in {one.name for one in made.notes.quantized}


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_plain_weights_are_integers_times_the_inverse_of_their_scale(kind: str, tmp_path: Path) -> None:
    ckptconv.convert(MODELS / f"gpt2-{kind}.bin", tmp_path / "x.pth", edits=ckptconv.Edits(dequantize=True))
    with (
        ckptconv.open(tmp_path / "x.pth") as made,
        ckptconv.open(MODELS / f"gpt2-{kind}.bin") as stored,
        np.load(MODELS / "read.npz") as file,
    ):
        assert not [name for name in made if name.endswith("_scale")]
        scale = stored[f"{LINEAR}_inverse_scale"].numpy().reshape(-1, 1)
        weight = made[LINEAR].numpy()
        assert weight.tobytes() == (stored[LINEAR].numpy().astype("f4") * (np.float32(1) / scale)).tobytes()
        assert np.all(np.abs(weight - file["c_attn"].T) <= 0.51 / scale)
        assert made["decoder/projection/weight"].alias == made["decoder/embeddings/weight"].alias


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axis": "rows"}, "size"),
        ({"inverse": 1}, "is not true"),
        ({"parts": {"scale": "x"}}, "in no way that is known"),
        ({"scheme": "magic"}, "in no way that is known"),
        ({"parts": {"values": "gone", "scale": "gone"}}, ""),
    ],
)
def test_what_a_record_says_of_weights_is_checked(change: dict[str, object], said: str, tmp_path: Path) -> None:
    ckptconv.convert(MODELS / "gpt2-int8.bin", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        strings = dict(file.metadata())
    record = json.loads(strings["ckptconv"])
    record["quantized"][0] |= change
    save_file(
        load_file(tmp_path / "x.safetensors"), tmp_path / "y.safetensors", {**strings, "ckptconv": json.dumps(record)}
    )
    if said:
        with pytest.raises(CorruptFileError, match=said):
            ckptconv.open(tmp_path / "y.safetensors")
    else:
        with ckptconv.open(tmp_path / "y.safetensors") as found:
            assert len(found.notes.quantized) == len(record["quantized"]) - 1


def test_a_folder_is_the_model_in_it(tmp_path: Path) -> None:
    shutil.copy(MODELS / "gpt2-int8.bin", tmp_path / "model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert ckptconv.diff(tmp_path, MODELS / "gpt2-int8.bin").equal
    (tmp_path / "model.bin").rename(tmp_path / "other.bin")
    with pytest.raises(UnsupportedError):
        ckptconv.open(tmp_path, format="ctranslate2")


def text(said: str) -> bytes:
    return pack("<H", len(said) + 1) + said.encode() + b"\0"


def variable(name: str, shape: tuple[int, ...] = (2,), code: int = 0, nbytes: int = 8, data: bytes = bytes(8)) -> bytes:
    return text(name) + pack(f"<B{len(shape)}IBI", len(shape), *shape, code, nbytes) + data


def model(*variables: bytes, aliases: bytes = bytes(4), version: int = 6, count: int | None = None) -> bytes:
    many = len(variables) if count is None else count
    return pack("<I", version) + text("TransformerSpec") + pack("<II", 7, many) + b"".join(variables) + aliases


def test_before_version_4_elements_have_a_size_and_before_3_there_were_no_aliases(tmp_path: Path) -> None:
    old = [
        variable("a", code=4, nbytes=2),
        variable("b", code=2, nbytes=2, data=bytes(4)),
        variable("c", (3,), 1, 3, b"123"),
    ]
    for version, aliases in ((2, b""), (3, pack("<I", 1) + text("d") + text("a"))):
        (tmp_path / "x").write_bytes(model(*old, version=version, aliases=aliases))
        with ckptconv.open(tmp_path / "x") as checkpoint:
            assert [one.info.dtype for one in checkpoint.values()][:3] == [DType.F32, DType.I16, DType.I8]
            assert ("d" in checkpoint) is (version == 3)


W = variable("w")
BAD: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "twice": (model(W, W), CorruptFileError),
    "type": (model(variable("w", code=6)), UnsupportedError),
    "size": (model(variable("w", nbytes=7, data=bytes(7))), CorruptFileError),
    "huge": (model(variable("w", (1 << 31, 1 << 31, 4))), CorruptFileError),
    "rank": (model(variable("w", (1,) * 65)), CorruptFileError),
    "cut": (model(W, aliases=b"")[:-1], CorruptFileError),
    "more": (model(W) + b"\0", CorruptFileError),
    "claims": (model(W, count=1000), CorruptFileError),
    "many": (model(W, count=1 << 31), LimitError),
    "text": (model(b"\0\0" + W), CorruptFileError),
    "latin": (model(W.replace(b"w\0", b"\xff\0")), CorruptFileError),
    "nobody": (model(W, aliases=pack("<I", 1) + text("a") + text("x")), CorruptFileError),
    "itself": (model(W, aliases=pack("<I", 1) + text("w") + text("w")), CorruptFileError),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(error) as refused:
        ckptconv.open(tmp_path / "model.bin")
    assert refused.value.hint


def test_what_begins_otherwise_is_no_such_model(tmp_path: Path) -> None:
    for data in (model(W, version=7), pack("<I", 6) + text("a b"), pack("<IH", 6, 900) + bytes(900), pack("<I", 6)):
        (tmp_path / "model.bin").write_bytes(data)
        with pytest.raises(CkptconvError):
            ckptconv.open(tmp_path / "model.bin")
        with pytest.raises(CkptconvError):
            ckptconv.open(tmp_path / "model.bin", format="ctranslate2")
