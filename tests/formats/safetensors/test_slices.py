"""Folders of slices: what torch's HuggingFaceStorageWriter saved is what its consolidation makes, and what it was."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from struct import unpack
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, UnknownFormatError, UnsupportedError, UsageError
from ckptconv.io.folder import Folder
from tests.support.stopwatch import at_most

HOME = Path(__file__).parents[3] / "fixtures" / "others" / "torch-hf-slices"
FOUR = HOME / "four"

Slices = dict[str, tuple[list[int], np.ndarray]]
"""What a process has of each tensor, and where that begins."""


def name_of(shard: int, part: int = 1, parts: int = 1) -> str:
    return f"shard-{shard:05}-model-{part:05}-of-{parts:05}.safetensors"


def written(path: Path, slices: Slices, info: Any = None) -> Path:
    """A file of slices; `info`: what its DCP_SHARDING_INFO is to say instead."""
    said = {name: {"saved_offsets": begin} for name, (begin, _) in slices.items()} if info is None else info
    metadata = {"DCP_SHARDING_INFO": said if isinstance(said, str) else json.dumps(said), "DCP_VERSION": "1.0"}
    save_file({name: array for name, (_, array) in slices.items()}, path, metadata)
    return path


def folder_of(folder: Path, *processes: Slices) -> Path:
    """A folder of what each process has."""
    folder.mkdir()
    for shard, slices in enumerate(processes, start=1):
        written(folder / name_of(shard), slices)
    return folder


def rows(start: int, stop: int, columns: int = 3, dtype: str = "f4") -> np.ndarray:
    return np.arange(start * columns, stop * columns).reshape(-1, columns).astype(dtype)


def values(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    with ckptconv.open(path) as checkpoint:
        return {
            name: (tensor.info.dtype.name, tensor.info.shape, bytes(tensor.read()))
            for name, tensor in checkpoint.items()
        }


def of(file: str, folder: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = values(HOME / file)
    return {name.removeprefix(f"{folder}|"): one for name, one in found.items() if name.startswith(f"{folder}|")}


@pytest.mark.parametrize("name", ["four", "two"])
def test_the_tensors_are_those_of_torchs_own_consolidation(name: str) -> None:
    made = of("consolidated.safetensors", name)
    assert len(made) > 5
    assert values(HOME / name) == made


@pytest.mark.parametrize("name", ["four", "two", "mixed", "whole"])
def test_the_tensors_are_what_they_were_before_they_were_cut(name: str) -> None:
    made = of("expected.safetensors", name)
    assert len(made) >= 5
    assert values(HOME / name) == made


def test_any_range_of_a_tensor_is_read_from_its_slices() -> None:
    with ckptconv.open(FOUR) as checkpoint:
        for name in ("grid", "turned", "columns", "middle", "brain.columns", "eight.columns"):
            image = bytes(checkpoint[name].read())
            cuts = range(0, len(image) + 1, 7)
            assert all(checkpoint[name].read(a, b) == image[a:b] for a in cuts for b in cuts[a // 7 :])


def test_the_folder_becomes_one_file_without_what_torch_noted_of_the_slices(tmp_path: Path) -> None:
    ckptconv.convert(FOUR, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert not set(file.metadata()) & {"DCP_SHARDING_INFO", "DCP_VERSION"}
    assert values(tmp_path / "a.safetensors") == of("expected.safetensors", "four")
    assert ckptconv.diff(FOUR, tmp_path / "a.safetensors").equal
    ckptconv.convert(HOME / "two", tmp_path / "a.pth")
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3))
    state = torch.load(tmp_path / "a.pth")
    network.load_state_dict(state)
    assert list(state) == list(network.state_dict())


def test_opening_reads_the_headers_alone() -> None:
    heads = 0
    for path in FOUR.iterdir():
        (length,) = unpack("<Q", path.read_bytes()[:8])
        heads += 8 + length + 4  # and a glance at the first bytes
    with ckptconv.open(FOUR) as checkpoint:
        folder = checkpoint.file
        assert isinstance(folder, Folder)
        assert checkpoint.format == "safetensors-slices"
        assert 0 < folder.bytes_read <= heads


def test_slices_that_processes_have_alike_are_compared_while_they_are_read(tmp_path: Path) -> None:
    one: Slices = {"w": ([0, 0], rows(0, 2)), "b": ([0], np.ones(3, "f4"))}
    other: Slices = {"w": ([2, 0], rows(2, 4)), "b": ([0], np.ones(3, "f4"))}
    folder = folder_of(tmp_path / "d", one, other, one)
    found = values(folder)
    assert found["w"][1:] == ((4, 3), rows(0, 4).tobytes())
    assert found["b"][1:] == ((3,), np.ones(3, "f4").tobytes())
    written(folder / name_of(3), {"w": ([0, 0], rows(0, 2) + 1)})
    with (
        ckptconv.open(folder) as checkpoint,
        pytest.raises(CorruptFileError, match=rf"'w' has other values in {name_of(3)} than in {name_of(1)}"),
    ):
        checkpoint["w"].read()


FAULTS: dict[str, tuple[list[Slices], str]] = {
    "a gap": ([{"w": ([0, 0], rows(0, 2))}, {"w": ([3, 0], rows(3, 4))}], r"no chunk covers \[2:3, 0:3\]"),
    "a gap at the start": ([{"w": ([1, 0], rows(0, 2))}], r"no chunk covers \[0:1, 0:3\]"),
    "a gap at the end": (
        [{"w": ([0, 0], rows(0, 2))}, {"w": ([4, 0], rows(0, 0))}], r"no chunk covers \[2:4, 0:3\]"
    ),
    "an overlap": ([{"w": ([0, 0], rows(0, 2))}, {"w": ([1, 0], rows(1, 3))}], r"\[0:2, 0:3\] and .* overlap"),
    "columns of other rows": ([{"w": ([0, 0], rows(0, 2))}, {"w": ([0, 3], rows(0, 3))}], r"covers \[2:3, 0:3\]"),
    "no elements": ([{"w": ([2, 0], rows(0, 0))}], "no chunk covers"),
    "far away": ([{"w": ([1 << 62, 0], rows(0, 2))}], "no chunk covers"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_slices_that_do_not_make_a_tensor_are_reported_with_it_and_its_files(fault: str, tmp_path: Path) -> None:
    processes, message = FAULTS[fault]
    folder = folder_of(tmp_path / "d", *processes)
    with pytest.raises(CorruptFileError, match=r"the slices of 'w' do not make it whole: .*" + message) as said:
        ckptconv.open(folder)
    assert said.value.path == folder
    assert [line.rpartition(" ")[2] for line in said.value.details] == [
        name_of(i) for i in range(1, len(processes) + 1)
    ]


def test_a_lost_file_between_others_is_reported_by_the_tensors_that_have_a_gap(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOUR, tmp_path / "d"))
    (folder / name_of(2, 1, 2)).unlink()
    with pytest.raises(CorruptFileError, match=r"the slices of '.+' do not make it whole"):
        ckptconv.open(folder)


def test_files_of_other_processes_that_are_not_there_are_reported(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))})
    written(folder / name_of(3), {"v": ([0, 0], rows(0, 2))})
    with ckptconv.open(folder) as checkpoint:
        told = {finding.code: finding for finding in checkpoint.findings}
    assert told["missing-slices"].severity == "warning"
    assert told["missing-slices"].where == name_of(2)
    with ckptconv.open(FOUR) as checkpoint:
        assert [(finding.code, finding.severity) for finding in checkpoint.findings] == [("slices", "info")]
    (folder / name_of(3)).rename(folder / "shard-999999999-model-00001-of-00001.safetensors")
    with at_most(1), ckptconv.open(folder) as checkpoint:
        assert any("and 999,999,994 more" in one.message for one in checkpoint.findings)


def test_a_part_without_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOUR, tmp_path / "d"))
    for path in folder.glob("*-model-00002-*"):
        path.unlink()
    with pytest.raises(CorruptFileError, match=r"1 of its 2 parts missing: shard-…-model-00002-of-00002\.safetensors"):
        ckptconv.open(folder)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("-of-00002", "-of-999999999"))
    with at_most(1), pytest.raises(CorruptFileError, match=r"999,999,998 of its 999,999,999 parts missing"):
        ckptconv.open(folder)


def test_files_of_two_checkpoints_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOUR, tmp_path / "d"))
    shutil.copyfile(HOME / "two" / name_of(1), folder / name_of(1))
    with pytest.raises(UsageError, match="files of several checkpoints"):
        ckptconv.open(folder)


@pytest.mark.parametrize("name", [name_of(0), name_of(1, 2, 1), name_of(1, 0, 1)])
def test_numbers_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))})
    written(folder / name, {"v": ([0, 0], rows(0, 2))})
    with pytest.raises(CorruptFileError, match="no file of that number") as said:
        ckptconv.open(folder)
    assert said.value.path == folder / name


INFOS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "malformed"),
    "a list": ([], "not a JSON object"),
    "deep": ("[" * 200_000, "malformed"),
    "twice": ('{"w": {"saved_offsets": [0, 0]}, "w": {"saved_offsets": [0, 0]}}', "twice"),
    "nothing": ({}, "does not say where 'w' begins"),
    "no offsets": ({"w": {}}, "does not say where 'w' begins"),
    "not an object": ({"w": [0, 0]}, "does not say where 'w' begins"),
    "another tensor": ({"w": {"saved_offsets": [0, 0]}, "v": {"saved_offsets": []}}, "speaks of 'v'"),
    "one offset": ({"w": {"saved_offsets": [0]}}, "2 dimensions, and it says 1 offsets"),
    "a negative one": ({"w": {"saved_offsets": [-1, 0]}}, "out of range"),
    "a fraction": ({"w": {"saved_offsets": [0.0, 0]}}, "out of range"),
    "a boolean": ({"w": {"saved_offsets": [False, 0]}}, "out of range"),
    "past every file": ({"w": {"saved_offsets": [1 << 63, 0]}}, "out of range"),
    "digits": ('{"w": {"saved_offsets": [%s, 0]}}' % ("9" * 5000), "malformed|out of range"),
}


@pytest.mark.parametrize("kind", INFOS)
def test_what_a_file_says_of_its_slices_is_checked(kind: str, tmp_path: Path) -> None:
    info, message = INFOS[kind]
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))})
    path = written(folder / name_of(2), {"w": ([0, 0], rows(0, 2))}, info)
    with pytest.raises(CorruptFileError, match=message) as said:
        ckptconv.open(folder)
    assert said.value.path == path
    ckptconv.open(path).close()  # by itself it is a file as any other


def test_a_sum_of_offset_and_size_past_every_file_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([(1 << 63) - 1, 0], rows(0, 2))})
    with pytest.raises(CorruptFileError, match="reaches further than a tensor can"):
        ckptconv.open(folder)


def test_a_file_without_the_metadata_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))})
    save_file({"w": rows(2, 4)}, folder / name_of(2))
    with pytest.raises(CorruptFileError, match="no DCP_SHARDING_INFO") as said:
        ckptconv.open(folder)
    assert said.value.path == folder / name_of(2)


@pytest.mark.parametrize("other", [rows(2, 4, dtype="f8"), np.zeros(3, "f4")])
def test_slices_of_other_types_are_reported_with_both_files(other: np.ndarray, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))}, {"w": ([2, 0][: other.ndim], other)})
    with pytest.raises(CorruptFileError, match=rf"'w' is .* and in {name_of(1)} F32") as said:
        ckptconv.open(folder)
    assert said.value.path == folder / name_of(2)


def test_slices_of_packed_elements_are_refused_by_name(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HOME / "mixed", tmp_path / "d"))
    path = next(path for path in folder.iterdir() if b'\\"packed\\": {\\"saved_offsets\\": [0, 0]' in path.read_bytes())
    data = path.read_bytes().replace(
        rb"\"packed\": {\"saved_offsets\": [0, 0]", rb"\"packed\": {\"saved_offsets\": [0, 2]"
    )
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match="'packed' is cut into slices of F4") as said:
        ckptconv.open(folder)
    assert said.value.path == path


def test_a_value_that_torch_wrote_before_the_header_is_reported(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))})
    path = folder / name_of(1)
    torch.save(3, tmp_path / "value")
    path.write_bytes((tmp_path / "value").read_bytes() + path.read_bytes())
    with pytest.raises(UnsupportedError, match="a value that is not a tensor") as said:
        ckptconv.open(folder)
    assert said.value.path == path


def test_a_file_that_is_named_alone_is_read_with_a_word_of_warning() -> None:
    for path in FOUR.iterdir():
        with ckptconv.open(path) as checkpoint:
            (told,) = checkpoint.findings
        assert (told.severity, told.code) == ("warning", "slice")
        assert str(FOUR) in told.message
    assert any("of its" in told.message for told in ckptconv.open(FOUR / name_of(2, 1, 2)).findings)


def test_a_renamed_file_of_slices_is_recognised_by_its_metadata_and_a_whole_one_is_not(tmp_path: Path) -> None:
    shutil.copyfile(FOUR / name_of(2, 1, 2), tmp_path / "a.safetensors")
    with ckptconv.open(tmp_path / "a.safetensors") as checkpoint:
        assert [told.code for told in checkpoint.findings] == ["slice"]
        assert "DCP_SHARDING_INFO" in checkpoint.metadata
    written(tmp_path / "b.safetensors", {"w": ([0, 0], rows(0, 2))})
    with ckptconv.open(tmp_path / "b.safetensors") as checkpoint:
        assert not checkpoint.findings
        assert not checkpoint.metadata


@pytest.mark.parametrize("parts", [None, {"w": 1, "v": 2}])
def test_whole_tensors_in_whole_files_have_no_metadata_for_it(parts: dict[str, int] | None, tmp_path: Path) -> None:
    state = {"w": torch.ones(2), "v": torch.zeros(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(tmp_path / "d"), parts), no_dist=True)
    with ckptconv.open(tmp_path / "d") as checkpoint:
        assert checkpoint.format == "safetensors-sharded"
        assert not checkpoint.findings
        assert not checkpoint.metadata
        assert {name: tensor.to_torch().tolist() for name, tensor in checkpoint.items()} == {
            name: tensor.tolist() for name, tensor in state.items()
        }


def test_slices_that_an_index_lists_are_reported(tmp_path: Path) -> None:
    """As HuggingFaceStorageWriter without save_distributed leaves them, where several processes write one file."""
    written(tmp_path / "model-00001-of-00001.safetensors", {"w": ([2, 0], rows(2, 4))})
    index = {"metadata": {"total_size": 24}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with ckptconv.open(tmp_path) as checkpoint:
        assert [told.code for told in checkpoint.findings] == ["slice"]


def test_a_whole_model_beside_the_slices_is_what_the_folder_means(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOUR, tmp_path / "d"))
    ckptconv.convert(FOUR, folder / "model.safetensors.index.json")
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.format == "safetensors-sharded"
        assert set(checkpoint) == set(of("expected.safetensors", "four"))


def test_a_folder_of_something_else_is_refused_with_from(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UnsupportedError, match="there is no shard-"):
        ckptconv.open(tmp_path, format="safetensors-slices")
    with pytest.raises(UnknownFormatError):
        ckptconv.open(tmp_path)


def test_every_truncation_of_one_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 2))}, {"w": ([2, 0], rows(2, 4))})
    path = folder / name_of(2)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CkptconvError) as said:
            ckptconv.open(folder)
        assert said.value.path == path


def test_flipped_bits_are_refused_or_read_as_torch_reads_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"w": ([0, 0], rows(0, 1))}, {"w": ([1, 0], rows(1, 2))})
    path = folder / name_of(2)
    data = path.read_bytes()
    read = 0
    for place in range(8 + unpack("<Q", data[:8])[0]):
        for bit in range(0, 8, 3):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = values(folder)
            except CkptconvError:
                continue
            read += 1
            assert found == as_torch_reads(folder)
    assert read > 10


def as_torch_reads(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """By torch's own reader, the values of F32."""
    listed: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    state = {name: torch.zeros(one.size, dtype=one.properties.dtype) for name, one in listed.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it loads in one process
        dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert {one.dtype for one in state.values()} == {torch.float32}
    return {name: ("F32", tuple(one.shape), one.numpy().tobytes()) for name, one in state.items()}
