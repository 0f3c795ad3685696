"""An index and its shards that contradict each other, or are not all there: each is reported, and named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnknownFormatError
from ckptconv.formats.sets import shards
from tests.formats.sets.set_files import INDEX, ONE, TWO, error_of, findings, make, write_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two shards as others write it, made with the safetensors package."""
    return make(tmp_path / "set")


def test_a_whole_set_has_nothing_to_tell(folder: Path) -> None:
    assert findings(folder) == findings(folder / INDEX) == []
    with ckptconv.open(folder) as checkpoint:
        assert (list(checkpoint), dict(checkpoint.metadata)) == (["a", "b", "c"], {})
        assert checkpoint.format == "safetensors-sharded"


def test_the_order_is_the_index_own_and_that_of_the_shards_where_the_index_is_sorted(tmp_path: Path) -> None:
    """Writers that sort the index's names kept no order in it; the shards are in one, bytes behind floats."""
    folder = make(tmp_path / "set")
    save_file({"a": torch.ones(4, dtype=torch.uint8), "b": torch.ones(3)}, folder / ONE)
    for names, expected in (("abc", ["b", "a", "c"]), ("cba", ["c", "b", "a"]), ("acb", ["a", "c", "b"])):
        write_index(folder, {name: TWO if name == "c" else ONE for name in names}, total_size=32)
        with ckptconv.open(folder) as checkpoint:
            assert list(checkpoint) == expected


def test_a_shard_by_itself_is_said_to_be_one_of_several(folder: Path) -> None:
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model-00001-of-00003.bin")
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model-00001-of-00001.bin")
    assert findings(folder / TWO) == [("shard", TWO)]
    assert findings(folder / "pytorch_model-00001-of-00003.bin") == [("shard", "pytorch_model-00001-of-00003.bin")]
    assert findings(folder / "pytorch_model-00001-of-00001.bin") == []


def test_every_missing_shard_is_named(folder: Path) -> None:
    (folder / ONE).unlink()
    (folder / TWO).unlink()
    error = error_of(folder / INDEX)
    assert isinstance(error, CorruptFileError)
    assert "2 shards of 2 missing" in error.message
    assert ONE in error.message
    assert TWO in error.message


def test_a_shard_that_is_a_dangling_link_is_missing(folder: Path) -> None:
    (folder / TWO).unlink()
    (folder / TWO).symlink_to("../blobs/gone")
    assert "1 shard of 2 missing" in error_of(folder).message


def test_a_stray_shard_is_reported_and_skipped(folder: Path) -> None:
    save_file({"d": torch.ones(1)}, folder / "model-00003-of-00003.safetensors")
    save_file({"d": torch.ones(1)}, folder / "other-00001-of-00001.safetensors")
    assert findings(folder / INDEX) == [("stray-shard", "model-00003-of-00003.safetensors")]
    with ckptconv.open(folder / INDEX) as checkpoint:
        assert "d" not in checkpoint


def test_a_tensor_that_is_nowhere_is_named(folder: Path) -> None:
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO, "d": TWO})
    assert error_of(folder).details == (f"'d' should be in {TWO!r}, and no shard has it",)


def test_a_tensor_elsewhere_than_the_index_says_is_named(folder: Path) -> None:
    write_index(folder, {"a": ONE, "b": TWO, "c": TWO})
    assert error_of(folder).details == (f"'b' should be in {TWO!r}, and is in {ONE!r}",)


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    save_file({"c": torch.zeros(2, 2), "a": torch.arange(4.0)}, folder / TWO)
    assert error_of(folder).details == (f"'a' is in two shards, {ONE!r} and {TWO!r}",)


def test_everything_that_is_wrong_is_reported_at_once_and_no_more_than_can_be_read(folder: Path) -> None:
    write_index(folder, {f"no{i}": ONE for i in range(30)})
    details = error_of(folder).details
    assert len(details) == 21
    assert details[-1] == "… and 10 more"


def test_a_tensor_that_the_index_does_not_list_is_reported_and_read(folder: Path) -> None:
    write_index(folder, {"a": ONE, "c": TWO})
    assert findings(folder) == [("unlisted-tensor", "b")]
    with ckptconv.open(folder) as checkpoint:
        assert list(checkpoint) == ["a", "c", "b"]


@pytest.mark.parametrize("said", [45, 44.5, "44", -1, True, [44], 10**400])
def test_a_wrong_total_size_is_reported(said: object, folder: Path) -> None:
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO}, total_size=said)
    assert findings(folder) == [("total-size", "total_size")]


@pytest.mark.parametrize("said", [44, 44.0])
def test_a_right_total_size_is_not(said: float, folder: Path) -> None:
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO}, total_size=said, total_parameters=11)
    assert findings(folder) == []


@pytest.mark.parametrize(
    "name", [f"../set/{ONE}", f"./{ONE}", "/etc/passwd", "..", ".", "", "sub\\" + ONE, f"{ONE}\0", None, 3, [ONE], {}]
)
def test_a_shard_outside_of_the_folder_is_refused_by_name(name: object, folder: Path) -> None:
    write_index(folder, {"a": ONE, "b": name, "c": TWO})
    error = error_of(folder)
    assert isinstance(error, CorruptFileError)
    assert "'b' is in" in error.message
    assert error.path == folder / INDEX


MALFORMED: dict[str, str] = {
    "cut short": '{"weight_map": {"a": "x',
    "not UTF-8": '{"weight_map": "\udcff"}',
    "a list": '{"weight_map": []}',
    "metadata no object": '{"weight_map": {}, "metadata": []}',
    "a name twice": '{"weight_map": {"a": "x", "a": "y"}}',
    "a key twice": '{"weight_map": {}, "weight_map": {}}',
    "nested": '{"weight_map": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested metadata": '{"weight_map": {}, "metadata": {"a": ' + "[" * 900 + "]" * 900 + "}}",
    "only named": '{"x": "weight_map", "weight_map ": {}, "y": ["\\"weight_map\\"", "weight_map"]}',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_index_is_an_error_with_its_path(what: str, folder: Path) -> None:
    (folder / INDEX).write_bytes(MALFORMED[what].encode("utf-8", "surrogateescape"))
    for path in (folder, folder / INDEX):
        error = error_of(path)
        assert isinstance(error, CorruptFileError)
        assert error.path == folder / INDEX
        assert error.hint


def test_an_index_past_the_limit_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_INDEX_BYTES", 50)
    for path in (folder, folder / INDEX):
        assert isinstance(error_of(path), LimitError)


def test_a_shard_that_is_damaged_is_the_one_that_is_named(folder: Path) -> None:
    (folder / TWO).write_bytes((folder / TWO).read_bytes()[:-1])
    error = error_of(folder)
    assert isinstance(error, CorruptFileError)
    assert error.path == folder / TWO


def test_a_record_of_no_sense_in_the_index_is_refused(folder: Path) -> None:
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO}, ckptconv={"ckptconv": '{"version": "x"}'})
    assert isinstance(error_of(folder), CorruptFileError)
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO}, ckptconv={"ckptconv": 3})
    assert findings(folder) == []


def test_every_cut_of_an_index_is_an_error_of_ours(folder: Path) -> None:
    text = (folder / INDEX).read_bytes()
    for length in range(len(text)):
        (folder / INDEX).write_bytes(text[:length])
        assert isinstance(error_of(folder / INDEX), CorruptFileError | UnknownFormatError)
        assert isinstance(error_of(folder), CkptconvError)


def test_every_bit_of_an_index_that_flips_is_an_error_or_no_other_tensors(folder: Path) -> None:
    text = (folder / INDEX).read_bytes()
    for position in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[position] ^= 1 << bit
            (folder / INDEX).write_bytes(flipped)
            try:
                with ckptconv.open(folder / INDEX) as checkpoint:
                    assert sorted(checkpoint) == ["a", "b", "c"]
            except CkptconvError:
                pass


def test_a_whole_set_without_an_index_is_read_and_reported(tmp_path: Path) -> None:
    make(tmp_path / "set")
    with ckptconv.open(tmp_path / "set") as checkpoint:
        expected = {name: bytes(tensor.read()) for name, tensor in checkpoint.items()}
    (tmp_path / "set" / INDEX).unlink()
    with ckptconv.open(tmp_path / "set") as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == expected
        assert [finding.code for finding in checkpoint.findings] == ["no-index"]
    ckptconv.convert(tmp_path / "set", tmp_path / "whole.safetensors")
    assert load_file(tmp_path / "whole.safetensors").keys() == expected.keys()


def test_shards_without_an_index_of_which_one_is_missing_are_reported(tmp_path: Path) -> None:
    make(tmp_path / "set")
    (tmp_path / "set" / INDEX).unlink()
    (tmp_path / "set" / TWO).unlink()
    error = error_of(tmp_path / "set")
    assert "1 shard and no index" in error.message
    assert ONE in error.message


def test_a_tensor_in_two_shards_without_an_index_is_an_error(tmp_path: Path) -> None:
    for i in (1, 2):
        save_file({"w": torch.ones(2)}, tmp_path / f"output-0000{i}-of-00002.safetensors")
    error = error_of(tmp_path)
    assert isinstance(error, CorruptFileError)
    assert error.message.startswith("'w' is in two shards")


def test_pickled_shards_without_an_index_are_reported(tmp_path: Path) -> None:
    for i in (1, 2):
        torch.save({f"w{i}": torch.ones(2)}, tmp_path / f"pytorch_model-0000{i}-of-00002.bin")
    assert "2 shards and no index" in error_of(tmp_path).message


def test_a_snapshot_of_symlinks_is_read_where_it_stands(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        os.rename(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    for path in (snapshot, snapshot / INDEX):
        with ckptconv.open(path) as checkpoint:
            assert bytes(checkpoint["b"].read()) == torch.ones(3).numpy().tobytes()


def test_two_sets_in_one_folder_are_each_whole(folder: Path) -> None:
    save_file({"a": torch.ones(4)}, folder / "model.fp16-00001-of-00001.safetensors")
    other = folder / "model.safetensors.index.fp16.json"
    other.write_text(json.dumps({"weight_map": {"a": "model.fp16-00001-of-00001.safetensors"}}))
    assert findings(folder / INDEX) == findings(other) == []


# What shards say besides


def test_metadata_that_all_shards_share_is_reported_once(folder: Path) -> None:
    for name in (ONE, TWO):
        tensors = {key: tensor for key, tensor in (("a", torch.arange(4.0)), ("b", torch.ones(3))) if name == ONE}
        save_file(tensors or {"c": torch.zeros(2, 2)}, folder / name, metadata={"format": "pt", "made": "by hand"})
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO}, mergekit_version="0.1", sizes=[1, {"a": None}])
    with ckptconv.open(folder) as checkpoint:
        said = {"format": "pt", "made": "by hand", "mergekit_version": "0.1", "sizes": [1, {"a": None}]}
        assert dict(checkpoint.metadata) == said


def test_metadata_that_shards_contradict_each_other_about_is_kept_by_file(folder: Path) -> None:
    save_file({"c": torch.zeros(2, 2)}, folder / TWO, metadata={"format": "pt", "rank": "1"})
    save_file({"a": torch.arange(4.0), "b": torch.ones(3)}, folder / ONE, metadata={"format": "pt", "rank": "0"})
    assert findings(folder) == [("shard-metadata", "rank")]
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.metadata["rank"] == {ONE: "0", TWO: "1"}


# Torch's


def torch_set(folder: Path, *parts: Any) -> Path:
    folder.mkdir()
    files = [f"pytorch_model-{i:05d}-of-{len(parts):05d}.bin" for i in range(1, len(parts) + 1)]
    for part, file in zip(parts, files, strict=True):
        torch.save(part, folder / file)
    weight_map = {key: file for part, file in zip(parts, files, strict=True) for key in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_a_shard_that_would_run_code_is_reported(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    folder = torch_set(tmp_path / "set", {"a": torch.ones(2)}, {"b": torch.ones(2)})
    torch.save({"b": torch.ones(2), "x": Runs()}, folder / "pytorch_model-00002-of-00002.bin")
    assert ckptconv.inspect(folder).verdict == "would run code"
    with pytest.raises(CkptconvError):
        ckptconv.convert(folder, tmp_path / "out.safetensors")
    assert ckptconv.convert(folder, tmp_path / "out.safetensors", bare=True).tensors == 2


def test_a_call_that_is_put_into_a_shard_of_ours_is_seen_behind_the_record(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    torch.save({"epoch": 3, "state_dict": {"a": torch.ones(2), "b": torch.ones(2)}}, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "set", to_format="torch-sharded", shard_size=8)
    torch.save({"b": torch.ones(2), "x": Runs()}, tmp_path / "set" / "pytorch_model-00002-of-00002.bin")
    assert ckptconv.inspect(tmp_path / "set").verdict == "would run code"
    assert "record" in dict(findings(tmp_path / "set"))


def test_a_shard_that_is_more_than_a_state_dict_is_refused_by_name(tmp_path: Path) -> None:
    folder = torch_set(tmp_path / "set", {"a": torch.ones(2)}, {"b": torch.ones(2)})
    torch.save({"epoch": 1, "state_dict": {"b": torch.ones(2)}}, folder / "pytorch_model-00002-of-00002.bin")
    error = error_of(folder)
    assert error.path == folder / "pytorch_model-00002-of-00002.bin"
    assert "ckptconv inspect" in str(error.hint)


def test_plain_values_between_the_tensors_of_shards_keep_their_places(tmp_path: Path) -> None:
    folder = torch_set(
        tmp_path / "set", {"a": torch.ones(2), "n": 3, "b": torch.ones(1)}, {"c": torch.ones(2), "m": "x"}
    )
    index = folder / "pytorch_model.bin.index.json"
    document = json.loads(index.read_text())
    document["weight_map"] = {key: file for key, file in document["weight_map"].items() if key not in "nm"}
    index.write_text(json.dumps(document))
    ckptconv.convert(folder, tmp_path / "out.pth")
    loaded = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(loaded) == ["a", "n", "b", "c", "m"]
    assert (loaded["n"], loaded["m"]) == (3, "x")


def test_a_storage_that_a_shard_shares_counts_once_in_its_total(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    folder = torch_set(tmp_path / "set", {"a": base, "b": base, "c": base[2:4]}, {"d": torch.ones(2)})
    index = folder / "pytorch_model.bin.index.json"
    for total in (48, 56, 96):
        document = json.loads(index.read_text())
        index.write_text(json.dumps({**document, "metadata": {"total_size": total}}))
        assert findings(folder) == []
    index.write_text(json.dumps({**document, "metadata": {"total_size": 47}}))
    assert findings(folder) == [("total-size", "total_size")]
