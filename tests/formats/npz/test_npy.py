"""An array in a file of its own, with numpy as the judge both ways."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import ckptconv
from ckptconv.api.inspect import inspect
from ckptconv.core.metadata import TensorRef
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, LossError, UnsupportedError, UsageError
from ckptconv.formats.registry import by_name
from ckptconv.io.source import Source
from tests.formats.npz.test_npz import DTYPES, ORDERS, OTHERS_HEADERS, SHAPES, WRONG, no_tensors, numbers


def assert_reads_as_numpy(path: Path) -> None:
    array = np.load(path)
    with ckptconv.open(path) as found:
        assert (found.format, list(found), found.root) == ("npy", ["tensor"], TensorRef("tensor"))
        tensor = found["tensor"]
        assert tensor.info.shape == array.shape
        assert tensor.numpy().dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_of_any_type_and_order_is_read(dtype: str, order: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", order(numbers((5, 6), dtype)))
    assert_reads_as_numpy(tmp_path / "x.npy")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_array_of_any_shape_is_read_and_written_as_numpy_writes_it(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(shape))
    assert_reads_as_numpy(tmp_path / "x.npy")
    ckptconv.convert(tmp_path / "x.npy", tmp_path / "y.npy")
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_every_version_of_the_header_is_read(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, numbers((2, 3)), version)
    assert_reads_as_numpy(tmp_path / "x.npy")


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # that one header is Python 2's
@pytest.mark.parametrize("data", OTHERS_HEADERS.values(), ids=OTHERS_HEADERS.keys())
def test_headers_of_other_writers_are_read_as_numpy_does(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    assert_reads_as_numpy(tmp_path / "x.npy")


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_header_is_an_error_with_a_hint(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(CkptconvError) as refused:
        ckptconv.open(tmp_path / "x.npy", format="npy")
    assert isinstance(refused.value, CorruptFileError | UnsupportedError | LimitError)
    assert refused.value.hint
    assert "savez" not in refused.value.hint


@pytest.mark.parametrize("name", no_tensors(Path()))
def test_what_is_no_tensor_is_refused_and_no_pickle_is_read(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", no_tensors(tmp_path)[name])
    with pytest.raises(UnsupportedError, match="the array ") as refused:
        ckptconv.open(tmp_path / "x.npy")
    assert refused.value.hint
    assert not (tmp_path / "ran").exists()


def test_text_is_no_tensor(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(["a", "bc"]))
    with pytest.raises(UnsupportedError, match="text"):
        ckptconv.open(tmp_path / "x.npy")


def test_every_length_but_the_whole_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers((2, 3)))
    whole = (tmp_path / "x.npy").read_bytes()
    for data in (*(whole[:size] for size in range(len(whole))), whole + b"\0"):
        (tmp_path / "x.npy").write_bytes(data)
        with pytest.raises(CkptconvError):
            ckptconv.open(tmp_path / "x.npy")


def test_jaxs_bfloat16_is_read_as_that_and_written_as_that(tmp_path: Path) -> None:
    half = numbers((3, 4)).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", half)
    ckptconv.convert(tmp_path / "x.npy", tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth").dtype == torch.bfloat16
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").view(ml_dtypes.bfloat16).tobytes() == half.tobytes()


def test_it_says_what_torch_saves_of_a_tensor_alone(tmp_path: Path) -> None:
    array = np.asfortranarray(numbers((3, 4), ">f8"))
    np.save(tmp_path / "x.npy", array)
    ckptconv.convert(tmp_path / "x.npy", tmp_path / "x.pth")
    assert torch.equal(torch.load(tmp_path / "x.pth"), torch.from_numpy(array.astype("f8")))
    torch.save(torch.from_numpy(array.astype("f8")), tmp_path / "y.pth")
    assert ckptconv.diff(tmp_path / "x.npy", tmp_path / "y.pth").equal
    ckptconv.convert(tmp_path / "y.pth", tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), array)


def test_one_tensor_of_many_has_to_be_selected(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 3), "b": torch.zeros(2)}, tmp_path / "x.pth")
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="'w', 'b'") as refused:
            ckptconv.convert(tmp_path / "x.pth", tmp_path / "w.npy", dry_run=dry_run)
        assert "--select 'w'" in str(refused.value.hint)
    edits = ckptconv.Edits(select=["w"])
    report = ckptconv.convert(tmp_path / "x.pth", tmp_path / "w.npy", edits=edits)
    assert [finding.where for finding in report.findings if finding.code == "name"] == ["w"]
    assert np.array_equal(np.load(tmp_path / "w.npy"), np.ones((2, 3), "f4"))


def test_what_it_has_no_place_for_needs_consent(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(LossError):
        ckptconv.convert(tmp_path / "x.pth", tmp_path / "x.npy")
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "x.npy", bare=True)
    torch.save(torch.ones(2).to(torch.float8_e4m3fn), tmp_path / "f8.pth")
    with pytest.raises(LossError, match="F8_E4M3"):
        ckptconv.convert(tmp_path / "f8.pth", tmp_path / "f8.npy")
    ckptconv.convert(tmp_path / "f8.pth", tmp_path / "f8.npy", allow_loss=["dtype"])
    assert np.load(tmp_path / "f8.npy").dtype == np.uint8
    torch.save(torch.ones((1,) * 33), tmp_path / "deep.pth")
    with pytest.raises(LimitError, match="33 dimensions"):
        ckptconv.convert(tmp_path / "deep.pth", tmp_path / "deep.npy")


def test_opening_reads_the_header_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(1 << 20))
    with Source(tmp_path / "x.npy") as source:
        assert by_name("npy").read(source)["tensor"].span is not None
        assert source.bytes_read < 1 << 10


def test_a_text_beside_weights_is_no_alarm(tmp_path: Path) -> None:
    save_file({"w": np.ones(2)}, tmp_path / "model.safetensors")
    np.save(tmp_path / "words.npy", np.array(["O", "b"]))
    assert inspect(tmp_path).to_dict()["verdict"] == "plain"


def test_an_array_in_an_archive_is_no_checkpoint_but_by_its_name(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pth")
    np.save(tmp_path / "mean.npy", np.ones(3))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "model.pth", "model.pth")
        archive.write(tmp_path / "mean.npy", "mean.npy")
    with ckptconv.open(tmp_path / "x.zip") as found:
        assert list(found) == ["w"]
    with ckptconv.open(tmp_path / "x.zip" / "mean.npy") as found:
        assert found["tensor"].numpy().tolist() == [1, 1, 1]


GOLDEN = (
    b"\x93NUMPY\1\0\x76\0{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(127)
    + b"\n\x00\x00\x80\x3f\x00\x00\x00\x40"
)


def test_a_file_that_was_written_by_hand(tmp_path: Path) -> None:
    assert np.load(io.BytesIO(GOLDEN)).tolist() == [1, 2]
    (tmp_path / "x.npy").write_bytes(GOLDEN)
    assert_reads_as_numpy(tmp_path / "x.npy")
    torch.save(torch.tensor([1.0, 2.0]), tmp_path / "x.pth")
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "y.npy")
    assert (tmp_path / "y.npy").read_bytes() == GOLDEN
