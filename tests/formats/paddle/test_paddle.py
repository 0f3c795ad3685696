"""Inference models of PaddlePaddle's: their variables are what it saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from struct import pack

import numpy as np
import pytest

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.paddle import read
from tests.support.protobuf_files import field, varint
from tests.support.reads import bytes_read

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
ONE_TWO = pack("<2f", 1, 2)


@pytest.mark.parametrize("name", ["paddle-net", "paddle-old"])
def test_every_variable_is_what_paddle_saved(name: str, tmp_path: Path) -> None:
    with ckptconv.open(RUNTIMES / f"{name}.pdiparams") as checkpoint, np.load(RUNTIMES / f"{name}.npz") as variables:
        assert checkpoint.format == "paddle"
        assert list(checkpoint) == sorted(variables.files)
        for key, tensor in checkpoint.items():
            assert np.array_equal(tensor.numpy(), variables[key]), key
            assert tensor.span is not None
    ckptconv.convert(RUNTIMES / f"{name}.pdiparams", tmp_path / "x.safetensors")
    assert ckptconv.diff(RUNTIMES / f"{name}.pdiparams", tmp_path / "x.safetensors").equal


def test_a_folder_is_the_model_in_it(tmp_path: Path) -> None:
    for suffix in ("json", "pdiparams"):
        shutil.copy(RUNTIMES / f"paddle-net.{suffix}", tmp_path / f"inference.{suffix}")
    (tmp_path / "inference.yml").write_text("Global: {}")
    assert ckptconv.diff(tmp_path, RUNTIMES / "paddle-net.pdiparams").equal
    shutil.copy(tmp_path / "inference.pdiparams", tmp_path / "other.pdiparams")
    with pytest.raises(CkptconvError) as refused:
        ckptconv.open(tmp_path)
    assert refused.value.hint
    with pytest.raises(UnsupportedError):
        ckptconv.open(tmp_path, format="paddle")


def test_without_its_program_tensors_are_numbered(tmp_path: Path) -> None:
    shutil.copy(RUNTIMES / "paddle-net.pdiparams", tmp_path / "x.pdiparams")
    with ckptconv.open(tmp_path / "x.pdiparams") as checkpoint:
        assert list(checkpoint) == [str(index) for index in range(9)]
        assert [(one.code, one.severity) for one in checkpoint.findings] == [("no-names", "warning")]


def test_a_program_by_itself_is_reported(tmp_path: Path) -> None:
    for suffix in ("json", "pdmodel"):
        shutil.copy(RUNTIMES / f"paddle-{'net' if suffix == 'json' else 'old'}.{suffix}", tmp_path / f"x.{suffix}")
        with pytest.raises(CkptconvError) as refused:
            ckptconv.open(tmp_path / f"x.{suffix}")
        assert ".pdiparams" in str(refused.value.hint)


def tensor(shape: list[int], data: bytes, *, code: int = 5, head: bytes = bytes(16)) -> bytes:
    desc = field(1, code) + b"".join(field(2, size) for size in shape)
    return head + pack("<i", len(desc)) + desc + data


def parameter(name: object, shape: object = (2,), kind: str = "t_f32") -> dict[str, object]:
    return {"#": "p", "A": [0, 1, 1, name], "O": {"%": 1, "TT": {"#": "0.t_dtensor", "D": [{"#": f"0.{kind}"}, shape]}}}


def written(folder: Path, data: bytes, names: list[str] | None = None, **said: dict[str, object]) -> Path:
    """`said` are parameters by name, where they are other than two floats."""
    (folder / "x.pdiparams").write_bytes(data)
    if names is not None:
        ops = [said.get(name) or parameter(name) for name in names]
        (folder / "x.json").write_text(json.dumps({"program": {"regions": [{"blocks": [{"ops": ops}]}]}}))
    return folder / "x.pdiparams"


def test_dimensions_may_be_packed_and_types_are_paddles(tmp_path: Path) -> None:
    desc = field(1, 22) + field(2, varint(2) + varint(1))
    data = bytes(16) + pack("<i", len(desc)) + desc + bytes(4) + tensor([], bytes(16), code=24)
    said = {"a": parameter("a", [-1, 1], "t_bf16"), "b": parameter("b", [], "t_c128")}
    with ckptconv.open(written(tmp_path, data, ["b", "a"], **said)) as checkpoint:
        assert [one.code for one in checkpoint.findings] == ["graph"]
        assert [(name, one.info.dtype, one.info.shape) for name, one in checkpoint.items()] == [
            ("a", DType.BF16, (2, 1)), ("b", DType.C128, ())
        ]  # fmt: skip


W = tensor([2], ONE_TWO)
BAD: dict[str, tuple[bytes, list[str] | None, type[CkptconvError]]] = {
    "version": (W + tensor([2], ONE_TWO, head=b"\1" + bytes(15)), None, CorruptFileError),
    "type": (W + tensor([2], ONE_TWO, code=13), None, UnsupportedError),
    "huge": (W + tensor([1 << 60, 8], ONE_TWO), None, CorruptFileError),
    "negative": (W + tensor([(1 << 64) - 2], ONE_TWO), None, CorruptFileError),
    "rank": (W + tensor([1] * 65, ONE_TWO), None, CorruptFileError),
    "cut": (W[:-1], None, CorruptFileError),
    "field": (W + bytes(16) + pack("<i", 4) + b"\x08\x05\x18\1", None, CorruptFileError),
    "half": (W + bytes(16) + pack("<i", 2) + b"\x08\x85", None, CorruptFileError),
    "few names": (W, [], CorruptFileError),
    "many names": (W, ["a", "b"], CorruptFileError),
    "twice": (W + W, ["a", "a"], CorruptFileError),
}


@pytest.mark.parametrize(("data", "names", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(
    data: bytes, names: list[str] | None, error: type[CkptconvError], tmp_path: Path
) -> None:
    with pytest.raises(error) as refused:
        ckptconv.open(written(tmp_path, data, names))
    assert refused.value.hint


@pytest.mark.parametrize("name", ["paddle-net", "paddle-old"])
def test_a_program_of_other_shapes_is_another_models(name: str, tmp_path: Path) -> None:
    program = next(RUNTIMES / f"{name}{suffix}" for suffix in read.PROGRAMS if (RUNTIMES / f"{name}{suffix}").exists())
    said = {"paddle-net": (b"[6],", b"[5],"), "paddle-old": (b"\x08\x05\x10\x06", b"\x08\x05\x10\x05")}[name]
    assert said[0] in program.read_bytes()
    (tmp_path / f"x{program.suffix}").write_bytes(program.read_bytes().replace(*said))
    shutil.copy(RUNTIMES / f"{name}.pdiparams", tmp_path / "x.pdiparams")
    with pytest.raises(
        CorruptFileError, match=r"the tensor 0 has the shape \[6\], and 'batch_norm1d_0.b_0'"
    ) as refused:
        ckptconv.open(tmp_path / "x.pdiparams")
    assert "two models" in str(refused.value.hint)


def test_a_program_of_other_types_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path, W + W, ["a", "b"], a=parameter("a", kind="t_i32"), b=parameter("b", kind="t_new"))
    with ckptconv.open(path) as checkpoint:
        (finding,) = (one for one in checkpoint.findings if one.code == "types")
        assert finding.message.endswith("'x.json', does not say: 'a' is F32, not I32")


def test_invalid_programs(tmp_path: Path) -> None:
    path = written(tmp_path, W)
    ops = [
        3,
        {"#": "p", "A": [0, 1, 1, "w"]},
        parameter("w", 2),
        parameter("w", ["2"]),
        parameter([]),
        parameter("w", [-2]),
    ]
    within = [json.dumps({"program": {"regions": [{"blocks": [{"ops": [op]}]}]}}) for op in ops]
    for text in ("{}", '{"program": []}', "[", *within):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(CorruptFileError):
            ckptconv.open(path)
    (tmp_path / "x.json").unlink()
    (tmp_path / "x.pdmodel").write_bytes(b"\x0a\xff\xff")
    with pytest.raises(CorruptFileError):
        ckptconv.open(path)


def test_a_name_that_utf_8_does_not_have_is_one_all_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, W + W, ["\ud800", "a"])
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["a", "\ud800"]
    ckptconv.convert(path, tmp_path / "x.safetensors")
    assert ckptconv.diff(path, tmp_path / "x.safetensors").equal


def test_every_cut_is_refused_or_has_fewer_tensors(tmp_path: Path) -> None:
    whole = W + tensor([1, 2], ONE_TWO)
    path = written(tmp_path, whole)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            with ckptconv.open(path, format="paddle") as checkpoint:
                assert (length, len(checkpoint)) == (len(W), 1)
        except CkptconvError as error:
            assert error.hint


def test_limits_hold_and_opening_reads_no_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, tensor([1 << 18], bytes(1 << 20)) + W)
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10
    monkeypatch.setattr(read, "MAX_TENSORS", 1)
    with pytest.raises(LimitError):
        ckptconv.open(path)
