"""Checkpoints of MindSpore's: what it loads of them is what is read here."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnknownFormatError, UnsupportedError
from ckptconv.formats.mindspore import read
from tests.support.protobuf_files import field, varint
from tests.support.reads import bytes_read, expect_any_range, expect_no_cut_to_open

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
ONE_TWO = pack("<2f", 1, 2)
COUNTERS = ["beta1_power", "beta2_power", "epoch_num", "global_step", "learning_rate"]
NAMES = [
    r"\.gamma$=.weight", r"\.beta$=.bias", r"\.moving_mean$=.running_mean", r"\.moving_variance$=.running_var",
]  # fmt: skip
"""The renames that README gives."""


def read_by_mindspore(name: str) -> dict[str, np.ndarray]:
    with np.load(RUNTIMES / "mindspore.npz") as arrays:
        return {key.split("|")[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}|")}


@pytest.mark.parametrize("name", ["net", "training", "types"])
def test_every_tensor_and_text_is_what_mindspore_loads(name: str, tmp_path: Path) -> None:
    expected, path = read_by_mindspore(name), RUNTIMES / f"mindspore-{name}.ckpt"
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "mindspore"
        tensors = checkpoint.all_tensors
        texts = {key: value for key, value in checkpoint.metadata.items() if isinstance(value, str)}
        assert {*tensors, *texts} == {*expected}
        for key, value in expected.items():
            if key in texts:
                assert texts[key] == str(value)
                continue
            found = tensors[key].numpy()
            assert found.shape == value.shape
            assert found.dtype == value.dtype or tensors[key].info.dtype is DType.BF16
            assert np.array_equal(found.astype(value.dtype), value)
            assert tensors[key].span is not None
    ckptconv.convert(path, tmp_path / "x.safetensors")
    assert ckptconv.diff(path, tmp_path / "x.safetensors").equal
    assert ckptconv.inspect(path).verdict == "plain"


def test_the_state_of_an_optimizer_and_counters_are_not_the_model(tmp_path: Path) -> None:
    with ckptconv.open(RUNTIMES / "mindspore-training.ckpt") as checkpoint:
        model = {"conv.weight", "conv.bias", "bn.gamma", "bn.beta", "fc.weight", "fc.bias", "ln.gamma", "ln.beta"}
        assert {*checkpoint} == model
        moments = {f"{moment}.{name}" for moment in ("moment1", "moment2") for name in model}
        assert {*checkpoint.extras} == {*COUNTERS, *moments}
    ckptconv.convert(RUNTIMES / "mindspore-training.ckpt", tmp_path / "x.safetensors", bare=True)
    assert {*load_file(tmp_path / "x.safetensors")} == model


def test_renamed_it_computes_in_torch_what_it_does_in_mindspore(tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[ckptconv.NameRule("rename", rule) for rule in NAMES])
    ckptconv.convert(RUNTIMES / "mindspore-net.ckpt", tmp_path / "net.pth", edits=edits, bare=True)
    net = torch.nn.Sequential()
    layers = {
        "conv": torch.nn.Conv2d(1, 2, 3), "bn": torch.nn.BatchNorm2d(2), "flat": torch.nn.Flatten(),
        "fc": torch.nn.Linear(8, 3), "ln": torch.nn.LayerNorm(3, eps=1e-7),
    }  # fmt: skip
    for name, layer in layers.items():
        net.add_module(name, layer)
    net.load_state_dict(torch.load(tmp_path / "net.pth"))
    with np.load(RUNTIMES / "mindspore.npz") as arrays, torch.no_grad():
        outputs = net.eval()(torch.from_numpy(arrays["images"]))
        assert np.allclose(outputs.numpy(), arrays["outputs"], atol=1e-5)


def value(name: str, dims: list[int], kind: str, data: bytes) -> bytes:
    tensor = b"".join(field(1, one) for one in dims) + field(2, kind.encode()) + field(3, data)
    return field(1, field(1, name.encode()) + field(2, tensor))


def written(folder: Path, data: bytes) -> Path:
    (folder / "x.ckpt").write_bytes(data)
    return folder / "x.ckpt"


def test_the_parts_of_a_large_tensor_are_one(tmp_path: Path) -> None:
    whole = np.arange(12, dtype="<f4")
    parts = b"".join(value("w", [3, 4], "Float32", whole[at : at + 5].tobytes()) for at in (0, 5, 10))
    with ckptconv.open(written(tmp_path, parts + value("b", [0], "Float32", ONE_TWO[:4]))) as checkpoint:
        assert np.array_equal(checkpoint["w"].numpy(), whole.reshape(3, 4))
        expect_any_range(checkpoint["w"], whole.tobytes())
        assert checkpoint["b"].info.shape == ()


ONE = value("w", [2], "Float32", ONE_TWO)
BAD: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "few": (value("w", [3], "Float32", ONE_TWO), CorruptFileError),
    "huge": (value("w", [1 << 62, 8], "Float32", ONE_TWO), CorruptFileError),
    "rank": (value("w", [1] * 65, "Float32", ONE_TWO[:4]), LimitError),
    "type": (value("w", [2], "Float32", ONE_TWO) + value("v", [1], "Complex64", ONE_TWO), UnsupportedError),
    "four bits": (value("w", [2], "Int4", b"\1"), UnsupportedError),
    "map": (field(1, field(1, b"table") + field(3, field(1, b""))), UnsupportedError),
    "parts apart": (ONE + value("v", [2], "Float32", ONE_TWO) + ONE, CorruptFileError),
    "shapes": (value("w", [4], "Float32", ONE_TWO) + value("w", [2, 2], "Float32", ONE_TWO), CorruptFileError),
    "no tensor": (ONE + field(1, field(1, b"v")), CorruptFileError),
    "no text": (ONE + value("t", [0], "str", b"\xff" * 4), CorruptFileError),
    "long name": (ONE + value("n" * 5000, [2], "Float32", ONE_TWO), LimitError),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    with pytest.raises(error) as refused:
        ckptconv.open(written(tmp_path, data))
    assert refused.value.hint


@pytest.mark.parametrize("start", [b"\xd8", b"\xd9", b"\xda"])
def test_an_encrypted_checkpoint_is_refused_by_name(start: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="an encrypted checkpoint of MindSpore's"):
        ckptconv.open(written(tmp_path, start + b"\x5e\x3a\x7f" + bytes(60)))


def test_every_cut_is_refused(tmp_path: Path) -> None:
    expect_no_cut_to_open(tmp_path / "x.ckpt", ONE, "mindspore")


def test_limits_hold_and_opening_reads_no_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, value("a", [1 << 18], "Float32", bytes(1 << 20)) + ONE)
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10
    monkeypatch.setattr(read, "MAX_TENSORS", 1)
    with pytest.raises(LimitError):
        ckptconv.open(path)


def test_other_messages_of_protobuf_are_not_claimed(tmp_path: Path) -> None:
    vocabulary = field(1, field(1, b"<unk>") + field(2, varint(0)))
    with pytest.raises(UnknownFormatError):
        ckptconv.open(written(tmp_path, vocabulary * 4))
