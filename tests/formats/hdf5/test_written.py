"""HDF5 as it is written, with h5py as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, RejectedOutputError
from ckptconv.formats.hdf5.structures import checksum
from ckptconv.formats.hdf5.writer import dense, drafting, messages, write
from ckptconv.formats.registry import by_name
from ckptconv.testing.samples import Plain, Sample
from ckptconv.testing.worker import write as write_sample
from tests.support.nodes import load

FIXTURES = Path(__file__).parents[3] / "fixtures"
KERAS = ["keras-bert.h5", "keras-gpt2.h5", "keras-recurrent.h5", "keras-vit.h5"]
BITS = {"BF16": np.uint16, "F8_E5M2": np.uint8}


def everything(path: Path) -> dict[str, Any]:
    """What h5py reads: datasets, groups, and their attributes."""
    found: dict[str, Any] = {}

    def add(name: str, one: Any) -> None:
        found[name] = [(key, np.asarray(value).tolist()) for key, value in sorted(one.attrs.items())]
        if isinstance(one, h5py.Dataset):
            found[name].append((one.dtype, one.shape, one[()].tobytes()))

    with h5py.File(path) as file:
        add("", file)
        file.visititems(add)
    return found


@pytest.mark.parametrize("name", KERAS)
def test_a_file_of_keras_comes_back_with_its_groups_and_attributes(name: str, tmp_path: Path) -> None:
    ckptconv.convert(FIXTURES / "others" / name, tmp_path / "a.h5")
    assert everything(tmp_path / "a.h5") == everything(FIXTURES / "others" / name)


def test_weights_of_an_archive_of_keras_are_where_keras_looks_for_them(tmp_path: Path) -> None:
    for bare in (False, True):
        ckptconv.convert(FIXTURES / "others" / "keras-3.keras", tmp_path / "a.weights.h5", force=True, bare=bare)
        with (
            h5py.File(tmp_path / "a.weights.h5") as file,
            ckptconv.open(FIXTURES / "others" / "keras-3.keras") as ours,
        ):
            for name, tensor in ours.items():
                assert file[name][()].tobytes() == tensor.numpy().tobytes()
            assert ("ckptconv" in file.attrs) != bare


@pytest.mark.parametrize("name", ["digits-raw", "digits-metadata", "digits-training", "dtypes", "tied", "views"])
def test_a_pth_comes_back_from_hdf5_and_h5py_reads_its_tensors(name: str, tmp_path: Path) -> None:
    source = FIXTURES / f"{name}.pth"
    ckptconv.convert(source, tmp_path / "a.h5")
    ckptconv.convert(tmp_path / "a.h5", tmp_path / "a.pth")
    assert ckptconv.diff(source, tmp_path / "a.pth").equal
    with ckptconv.open(source) as checkpoint, h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == list(checkpoint.all_tensors)
        for own, tensor in checkpoint.all_tensors.items():
            data, dtype = file[own][()], tensor.info.dtype.name
            assert data.shape == tensor.info.shape or dtype == "F4"
            if dtype not in BITS:
                assert data.tobytes() == bytes(tensor.read())
            else:  # h5py gives wider floats of the same values
                np.testing.assert_array_equal(data, tensor.numpy().astype(data.dtype))


def test_metadata_are_attributes_that_others_read_and_may_change(tmp_path: Path) -> None:
    ckptconv.convert(
        FIXTURES / "digits-metadata.pth", tmp_path / "a.h5",
        metadata={"name": "net", "rate": 0.5, "pair": (1, 2), "none": None, "mixed": [1, "a"], "gone": 1},
    )  # fmt: skip
    with h5py.File(tmp_path / "a.h5", "a") as file:
        found = file.attrs
        assert (found["input_size"], list(found["hidden_layers"]), found["name"]) == (64, [64, 32], "net")
        assert (found["rate"], found["pair"], found["mixed"]) == (0.5, "[1, 2]", '[1, "a"]')
        assert isinstance(found["none"], h5py.Empty)
        found["input_size"], found["pair"], found["name"], found["new"] = 65, "[3, 4]", "other", [1.5, 2.5]
        del found["gone"]
        file["added/w"] = np.ones(3, np.float32)
        file["output.bias"].attrs["unit"] = "nats"
    with ckptconv.open(tmp_path / "a.h5") as checkpoint:
        metadata = checkpoint.metadata
        assert checkpoint["added/w"].info.shape == (3,)
    assert (metadata["input_size"], metadata["pair"], metadata["name"]) == (65, (3, 4), "other")
    assert (metadata["new"], metadata["none"], metadata["mixed"]) == ([1.5, 2.5], None, [1, "a"])
    assert metadata["output.bias"] == {"unit": "nats"}
    assert "gone" not in metadata


def test_attributes_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "texts": ["a", "", "权重"], "nested": [[1, 2], [3, -4]], "large": 2**64 - 1, "complex": 1 - 2j, "empty": "",
        "flags": [True, False], "floats": [0.1, float("nan"), -0.0], "none": None, "nothing": [],
    }  # fmt: skip
    root = {**values, "g/w": {"name": "inner", "axis": 1}, "state_dict": StateDict(container="dict")}
    write_sample(by_name("hdf5"), Sample("a", {"g/w": Plain.counting(DType.F32, 2)}, root), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert "ckptconv" not in file.attrs
        assert list(file.attrs["texts"]) == values["texts"]
        assert file.attrs["nested"].tolist() == values["nested"]
        assert (file.attrs["large"], file.attrs["complex"], file.attrs["empty"]) == (2**64 - 1, 1 - 2j, "")
        assert dict(file["g/w"].attrs) == {"name": "inner", "axis": 1}


def test_ties_are_links_to_one_dataset_also_of_types_that_hdf5_lacks(tmp_path: Path) -> None:
    shared = Plain.counting(DType.F8_E4M3, 2, 3)
    sample = Sample("a", {"a": shared, "b": Plain.counting(DType.F32, 2), "c/d": shared})
    write_sample(by_name("hdf5"), sample, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["a"] == file["c/d"]
        assert h5py.h5o.get_info(file["a"].id).rc == 2
    with ckptconv.open(tmp_path / "a.h5") as checkpoint:
        assert checkpoint.ties == [["a", "c/d"]]
        assert {checkpoint[name].info.dtype for name in ("a", "c/d")} == {DType.F8_E4M3}


def test_names_that_are_no_paths_are_noted_in_the_record(tmp_path: Path) -> None:
    names = ["a", "a/b", "/x", "y/", "p//q", ".", "./z", "a|b", "..", "", "nul\0", "ckptconv", "n" * 5000]
    save_file({name: np.full(2, i, np.float32) for i, name in enumerate(names)}, tmp_path / "a.safetensors")
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "a.h5")
    ckptconv.convert(tmp_path / "a.h5", tmp_path / "b.safetensors")
    assert ckptconv.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").equal
    with h5py.File(tmp_path / "a.h5") as file:
        assert [file[name][0] for name in ("a", "a|b#1", "..", "ckptconv")] == [0, 1, 8, 11]


def test_weights_that_would_be_read_as_an_optimizers_state_keep_the_record(tmp_path: Path) -> None:
    names = ["optimizer/w", "layers/w"]
    save_file({name: np.ones(2, np.float32) for name in names}, tmp_path / "a.safetensors")
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "a.h5", bare=True)
    with ckptconv.open(tmp_path / "a.h5") as checkpoint:
        assert sorted(checkpoint) == sorted(names)
        assert not checkpoint.extras


def test_many_texts_are_in_several_heaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "_MAX_IN_HEAP", 3)
    words = {f"word {i}": "x" * i * 100 for i in range(40)}
    ckptconv.convert(FIXTURES / "digits-raw.pth", tmp_path / "a.h5", metadata=words)
    with h5py.File(tmp_path / "a.h5") as file:
        assert {key: file.attrs[key] for key in words} == words
    ckptconv.convert(tmp_path / "a.h5", tmp_path / "a.pth")
    assert load(tmp_path / "a.pth")["word 39"] == words["word 39"]


def test_more_metadata_than_a_reader_takes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MAX_TEXT", 1000)
    with pytest.raises(LimitError, match="bytes of text") as caught:
        ckptconv.convert(FIXTURES / "digits-raw.pth", tmp_path / "a.h5", metadata={"long": "x" * 1000})
    assert caught.value.hint == "--bare leaves the metadata out"
    assert not list(tmp_path.iterdir())


def test_what_h5py_does_not_open_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "encode_space", lambda shape: b"\x09" + messages.encode_space(shape)[1:])
    with pytest.raises(RejectedOutputError, match="h5py refuses"):
        ckptconv.convert(FIXTURES / "digits-raw.pth", tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_links_of_a_large_group_are_found_by_name_and_come_in_their_order(tmp_path: Path) -> None:
    names = [f"layers.{i * 7919 % 1000}.weight" for i in range(1000)]
    tensors = {name: Plain(DType.U16, (1,), i.to_bytes(2, "little")) for i, name in enumerate(names)}
    write_sample(
        by_name("hdf5"), Sample("a", {**tensors, **{f"g/{name}": tensors[name] for name in names}}), tmp_path / "a.h5"
    )
    with h5py.File(tmp_path / "a.h5", "a") as file:
        assert list(file) == [*names, "g"]
        assert list(file["g"]) == names
        assert [int(file[name][0]) for name in names] == list(range(1000))
        file["g/added"] = np.ones(3)
        del file[names[5]]
    with ckptconv.open(tmp_path / "a.h5") as checkpoint:
        assert len(checkpoint) == 2000
        assert bytes(checkpoint[f"g/{names[5]}"].read()) == b"\5\0"


def test_headers_of_a_large_group_are_checked_each(tmp_path: Path) -> None:
    tensors = {f"layer {i}": Plain(DType.U16, (1,), b"ab") for i in range(1000)}
    write_sample(by_name("hdf5"), Sample("a", tensors), tmp_path / "a.h5")
    data = bytearray((tmp_path / "a.h5").read_bytes())
    places = [at for at in range(len(data)) if data[at : at + 4] == b"OHDR"]
    assert len(places) == 1001
    for place in (places[1], places[500], places[-1]):
        data[place + 12] ^= 1
        (tmp_path / "b.h5").write_bytes(data)
        with pytest.raises(CorruptFileError, match="an object header fails its checksum"):
            ckptconv.open(tmp_path / "b.h5")
        data[place + 12] ^= 1


def test_checksums_are_the_same_one_by_one_and_together() -> None:
    pieces = [bytes(range(length)) * times for times in (1, 3) for length in range(50) for _ in range(10)]
    assert len(pieces) >= checksum._VECTORIZE_FROM
    assert checksum.lookup3_of_each(pieces) == [checksum.lookup3(piece) for piece in pieces]


@pytest.mark.parametrize("fewest", [1, 4])
def test_a_damaged_heap_of_links_is_refused(fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "MIN_LINKS", fewest)
    ckptconv.convert(FIXTURES / "digits-raw.pth", tmp_path / "a.h5", bare=True)
    data = (tmp_path / "a.h5").read_bytes()
    start, end = data.index(b"FRHP"), data.index(b"FHDB") + 512
    with ckptconv.open(tmp_path / "a.h5") as checkpoint:
        names = list(checkpoint)
    for at in range(start, end, 7):
        (tmp_path / "b.h5").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            with ckptconv.open(tmp_path / "b.h5") as checkpoint:
                assert list(checkpoint) == names  # between two parts
        except CkptconvError as error:
            assert error.hint
