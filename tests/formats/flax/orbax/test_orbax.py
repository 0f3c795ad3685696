"""Orbax's folders: what it reads from them is what is read here, under the names that Flax's trees have."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CorruptFileError, MissingExtraError, UsageError
from ckptconv.formats.flax.orbax import compressed
from tests.support.orbax_files import FIXTURES, VERSIONS, entry, unpack, write_store, write_tree, zarr_json, zarray

zstd = compressed.zstd()
Found = dict[str, dict[tuple[str, ...], Any]]


def read_by_orbax(version: str) -> tuple[Found, Found]:
    """Arrays and other values, by folder and path."""
    arrays: Found = {}
    others: Found = {}
    with np.load(FIXTURES / f"orbax-{version}.npz") as found:
        for key in found.files:
            if key == "others":
                continue
            folder, path, dtype = key.split("|")
            value = found[key].view(getattr(ml_dtypes, dtype, dtype))
            arrays.setdefault(folder, {})[tuple(map(str, json.loads(path)))] = value
        for key, value in json.loads(found["others"].tobytes()).items():
            folder, path = key.split("|")
            others.setdefault(folder, {})[tuple(map(str, json.loads(path)))] = value
    return arrays, others


FOLDERS = [(version, folder) for version in VERSIONS for folder in read_by_orbax(version)[0]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {version: unpack(version, tmp_path_factory.mktemp(version)) for version in VERSIONS}


@pytest.fixture(scope="module")
def new(made: dict[str, Path]) -> Path:
    return made["0.12.8"]


@pytest.mark.parametrize(("version", "folder"), FOLDERS)
def test_every_array_is_what_orbax_reads(version: str, folder: str, made: dict[str, Path]) -> None:
    expected = read_by_orbax(version)[0][folder]
    with ckptconv.open(made[version] / folder) as checkpoint:
        assert checkpoint.format == "orbax"
        tensors = checkpoint.all_tensors
        assert len(tensors) == len(expected)
        for path, value in expected.items():
            name = ".".join(path) or "tensor"
            tensor = tensors[name] if name in tensors else tensors[name.removeprefix("params.")]
            ours = tensor.numpy()
            assert (ours.dtype, ours.shape) == (value.dtype, value.shape)
            if tensor.info.dtype.bits < 8:  # what the other bits of a byte are is nobody's business
                ours, value = ours.astype("f4"), value.astype("f4")
            assert ours.tobytes() == value.tobytes()


@pytest.mark.parametrize(("version", "folder"), FOLDERS)
def test_every_other_value_is_what_orbax_reads(version: str, folder: str, made: dict[str, Path]) -> None:
    expected = read_by_orbax(version)[1].get(folder, {})
    with ckptconv.open(made[version] / folder) as checkpoint:
        for path, (kind, value) in expected.items():
            node: Any = checkpoint.metadata
            for key in path:
                node = node[key] if key in node else node[int(key)]
            if folder == "rich" and value is None:  # a namedtuple without fields, of which Orbax makes nothing
                assert node == {}
            elif kind == "float32":  # numpy's own, in msgpack
                assert np.frombuffer(node.data, node.dtype)[0] == value
            else:
                assert (type(node).__name__, list(node) if kind == "tuple" else node) == (kind, value)


def test_a_train_state_has_the_names_that_its_msgpack_has(new: Path) -> None:
    with ckptconv.open(new / "train") as checkpoint:
        assert set(checkpoint) == {"Dense_0.kernel", "Dense_0.bias", "Dense_1.kernel", "Dense_1.bias"}
        assert {"opt_state.0.count", "opt_state.0.mu.Dense_0.kernel"} < checkpoint.extras.keys()
        assert checkpoint["Dense_1.kernel"].info.dtype is DType.BF16
        assert checkpoint.metadata["step"] == 1


def test_translated_names_are_those_of_torch(new: Path, tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[NameRule("translate", "flax")])
    ckptconv.convert(new / "train", tmp_path / "x.pth", edits=edits, bare=True)
    with ckptconv.open(tmp_path / "x.pth") as found, ckptconv.open(new / "train") as checkpoint:
        assert found["Dense_0.weight"].info.shape == (4, 6)
        assert (found["Dense_0.weight"].numpy() == checkpoint["Dense_0.kernel"].numpy().T).all()


def test_variables_of_nnx_have_their_names_in_torch(new: Path, tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[NameRule("translate", "flax")])
    ckptconv.convert(new / "nnx", tmp_path / "x.pth", edits=edits, bare=True)
    with ckptconv.open(tmp_path / "x.pth") as found, ckptconv.open(new / "nnx") as checkpoint:
        assert set(found) == {"hidden.weight", "hidden.bias"} | {
            f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")
        }
        assert (found["hidden.weight"].numpy() == checkpoint["hidden.kernel.value"].numpy().T).all()


@pytest.mark.parametrize("folder", ["train", "sharded", "types", "raw-zarr3", "plain"])
def test_it_converts_to_safetensors_without_a_difference(folder: str, new: Path, tmp_path: Path) -> None:
    ckptconv.convert(new / folder, tmp_path / "x.safetensors")
    assert ckptconv.diff(new / folder, tmp_path / "x.safetensors").equal


@pytest.mark.parametrize("folder", ["sharded", "stores", "types", "cut", "raw", "raw-zarr3"])
def test_a_range_of_a_tensor_is_that_part_of_it(folder: str, new: Path) -> None:
    with ckptconv.open(new / folder) as checkpoint:
        for tensor in checkpoint.all_tensors.values():
            whole, size = bytes(tensor.read()), tensor.info.nbytes
            assert len(whole) == size
            for start in (size // 2, 0, size // 3, size - 1):  # forwards and backwards
                for stop in {size // 2, size - 1, size}:
                    assert bytes(tensor.read(min(start, stop), stop)) == whole[min(start, stop) : stop]


def test_a_folder_of_steps_is_its_newest(new: Path) -> None:
    with ckptconv.open(new / "manager") as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [1000] * 3
        state: Any = checkpoint.metadata["state"]
        assert state["step"] == 1000
        assert checkpoint.metadata["notes"] == {"lr": 0.1}
        assert checkpoint.metadata["custom_metadata"] == {"who": "me"}
        assert [finding.message for finding in checkpoint.findings] == [
            "this is '1000', the newest of 3 steps; the others are 5, 0"
        ]
    with ckptconv.open(new / "manager" / "5") as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [5] * 3
        assert not checkpoint.findings


def test_a_single_item_is_the_whole(new: Path) -> None:
    with ckptconv.open(new / "single") as checkpoint:
        assert (set(checkpoint), checkpoint.metadata) == ({"w"}, {"step": 7})


def test_of_several_items_with_arrays_the_one_with_params_is_the_model(new: Path, tmp_path: Path) -> None:
    shutil.copytree(new / "train", tmp_path / "x" / "state")
    shutil.copytree(new / "array", tmp_path / "x" / "random")
    for item in (tmp_path / "x").iterdir():
        (item / "_CHECKPOINT_METADATA").rename(tmp_path / "x" / "_CHECKPOINT_METADATA")
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert "Dense_0.kernel" in checkpoint
        assert "random" in checkpoint.extras


def test_a_folder_of_several_checkpoints_lists_them(new: Path) -> None:
    with pytest.raises(UsageError, match=r"holds \d+ checkpoints: array, ") as refused:
        ckptconv.open(new)
    assert "array" in str(refused.value.hint)


def test_a_folder_with_one_checkpoint_that_is_no_step_names_it(new: Path, tmp_path: Path) -> None:
    shutil.copytree(new / "train", tmp_path / "runs" / "train")
    with pytest.raises(UsageError, match="holds a checkpoint: train") as refused:
        ckptconv.open(tmp_path / "runs")
    assert str(tmp_path / "runs" / "train") in str(refused.value.hint)


def test_a_random_key_is_reported(new: Path) -> None:
    with ckptconv.open(new / "keys") as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["read-as"]
        assert "threefry2x32" in checkpoint.findings[0].message


def test_many_random_keys_are_told_in_one_line(new: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(new / "keys", tmp_path / "keys"))
    listing = folder / "array_metadatas" / "process_0"
    listing.write_text(listing.read_text().replace("null", '{"random_key_impl": "rbg"}'))
    with ckptconv.open(folder) as checkpoint:
        (told,) = checkpoint.findings
    assert told.message == "2 JAX random keys (rbg, threefry2x32) are read as their integers: 'key', 'params.w'"


def test_a_bare_store_has_the_names_of_its_arrays(new: Path) -> None:
    with ckptconv.open(new / "stores") as checkpoint:
        assert "zarr3.shards" in checkpoint


@pytest.mark.parametrize("folder", ["plain", "loose", "aggregate"])
def test_a_tree_that_is_only_in_msgpack_is_the_same(folder: str, made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made["0.5.3"] / folder, tmp_path / "x")
    (tmp_path / "x" / "_METADATA").unlink()
    with ckptconv.open(made["0.5.3"] / folder) as whole, ckptconv.open(tmp_path / "x") as checkpoint:
        numbers = {"int", "float", "bool", "scalar", "mixed.1", "mixed.2.x.1"}  # whose type the msgpack does not say
        assert checkpoint.all_tensors.keys() - numbers == set(whole.all_tensors)
        for name, tensor in whole.all_tensors.items():
            assert bytes(checkpoint.all_tensors[name].read()) == bytes(tensor.read())


def test_tuples_are_lists_where_the_list_does_not_say_more(new: Path) -> None:
    with ckptconv.open(new / "plain") as checkpoint:
        assert isinstance(checkpoint.root["mixed"][2]["x"], list)  # type: ignore[index]
    with ckptconv.open(new / "rich") as checkpoint:
        assert isinstance(checkpoint.root["t"], tuple)  # type: ignore[index]


def test_a_chunk_that_is_not_compressed_is_read_where_it_lies(new: Path) -> None:
    for folder in ("raw", "raw-zarr3"):
        with ckptconv.open(new / folder) as checkpoint:
            span = checkpoint["b"].span
            assert span is not None
            assert bytes(span.file.read_at(span.offset, span.length)) == bytes(checkpoint["b"].read())


def test_opening_reads_no_chunk(tmp_path: Path) -> None:
    data = zstd.compress(np.random.default_rng(0).bytes(1 << 22))
    folder = write_tree(
        tmp_path / "x",
        entry("w"),
        {"w/.zarray": zarray([1 << 20], compressor={"id": "zstd"}), "w/0": (0, len(data))},
        data,
    )
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.file.bytes_read < 1 << 14  # type: ignore[union-attr]
        checkpoint["w"].read(100, 101)
        assert checkpoint.file.bytes_read < 1 << 18  # type: ignore[union-attr]


def large(folder: Path, size: int = 64 << 20, rows: int = 1) -> tuple[Path, bytes]:
    """One array of one chunk that inflates to `size` bytes, in columns."""
    values = (np.arange(size // 4, dtype=np.int32) // 1000).tobytes()
    data = zstd.compress(values, 1)
    shape = [size // 4 // rows, rows]
    document = zarray(shape, dtype="<i4", compressor={"id": "zstd"})
    return write_tree(folder, entry("w"), {"w/.zarray": document, "w/0.0": (0, len(data))}, data), values


def test_a_chunk_is_never_inflated_whole(tmp_path: Path) -> None:
    folder, values = large(tmp_path / "x")
    with ckptconv.open(folder) as checkpoint:
        tensor = checkpoint["w"]
        tensor.read(0, 1)
        tracemalloc.start()
        for start in range(0, len(values), 1 << 20):
            assert bytes(tensor.read(start, start + (1 << 20))) == values[start : start + (1 << 20)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


def test_threads_share_a_chunk(tmp_path: Path) -> None:
    folder, values = large(tmp_path / "x", 16 << 20)
    starts = list(range(0, len(values), 1 << 20))
    with ckptconv.open(folder) as checkpoint, ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: bytes(checkpoint["w"].read(start, start + (1 << 20))), starts))
    assert b"".join(parts) == values


@pytest.mark.parametrize("kind", ["zlib", "gzip"])
def test_streams_of_zlib_are_read(kind: str, tmp_path: Path) -> None:
    values = bytes(range(256)) * 4096
    data = zlib.compress(values, wbits=31 if kind == "gzip" else 15)
    document = zarray([1 << 20], dtype="|u1", compressor={"id": kind})
    folder = write_store(tmp_path / "x", {"w/.zarray": document, "w/0": (0, len(data))}, data)
    with ckptconv.open(folder) as checkpoint:
        assert bytes(checkpoint["w"].read()) == values


def test_chunks_that_orbax_would_have_written_are_lost(tmp_path: Path) -> None:
    entries = {"w/.zarray": zarray([4], chunks=[2]), "w/0": bytes(8)}
    folder = write_tree(tmp_path / "x", entry("w"), entries)
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [0] * 4
    write_tree(folder, entry("w"), entries, store_array_data_equal_to_fill_value=True)
    with pytest.raises(CorruptFileError, match="1 of the 2 chunks of 'w' are not there"):
        ckptconv.open(folder)


def test_what_was_added_to_lists_and_checkpoints_is_metadata(tmp_path: Path) -> None:
    arrays = {"w/.zarray": zarray([1]), "w/0": bytes(4)}
    for item in ("a", "b"):
        write_tree(tmp_path / "x" / item, entry("w"), arrays, custom_metadata={"of": item})
    (tmp_path / "x" / "_CHECKPOINT_METADATA").write_text('{"custom_metadata": {}, "metrics": {"loss": 0.5}}')
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert checkpoint.metadata == {
            "custom_metadata": {"of": "a"}, "custom_metadata_": {"of": "b"}, "metrics": {"loss": 0.5},
        }  # fmt: skip
        assert not checkpoint.ties
    with ckptconv.open(tmp_path / "x" / "a") as checkpoint:
        assert checkpoint.metadata == {"custom_metadata": {"of": "a"}}


def test_an_array_that_no_list_names_is_reported(tmp_path: Path) -> None:
    arrays = {"v/.zarray": zarray([1]), "v/0": bytes(4), "w/.zarray": zarray([1]), "w/0": bytes(4)}
    with ckptconv.open(write_tree(tmp_path / "x", entry("w"), arrays)) as checkpoint:
        assert list(checkpoint) == ["w"]
        assert [(finding.code, finding.where) for finding in checkpoint.findings] == [("unlisted-array", "v")]


def test_entries_of_unknown_types_are_reported_and_need_consent(tmp_path: Path) -> None:
    listed = entry("w") | entry("it", kind="grain.Iterator") | entry("odd")
    odd = {"odd/.zarray": zarray([1], dtype="float8_e3m4"), "odd/0": b"\0"}
    folder = write_tree(tmp_path / "x", listed, {"w/.zarray": zarray([1]), "w/0": bytes(4), **odd})
    with ckptconv.open(folder) as checkpoint:
        assert {finding.where for finding in checkpoint.findings} == {"it", "odd"}
    with pytest.raises(ckptconv.CkptconvError, match="none agreed to"):
        ckptconv.convert(folder, tmp_path / "x.safetensors")
    ckptconv.convert(folder, tmp_path / "x.safetensors", allow_loss=["opaque"])


def test_without_the_package_the_hint_says_what_to_install(new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(compressed, "import_module", absent)
    with pytest.raises(MissingExtraError) as refused:
        ckptconv.open(new / "train")
    assert refused.value.hint == "pip install 'ckptconv[orbax]'"


def test_a_file_of_it_says_where_the_whole_is(new: Path, made: dict[str, Path]) -> None:
    for name in ("manifest.ocdbt", "_METADATA", "_CHECKPOINT_METADATA"):
        with pytest.raises(ckptconv.CkptconvError) as refused:
            ckptconv.open(new / "train" / name)
        assert refused.value.hint == "name the folder that it is in"
    with pytest.raises(ckptconv.CkptconvError) as refused:
        ckptconv.open(made["0.5.3"] / "plain" / "checkpoint")
    assert refused.value.hint == "name the folder itself: Orbax's are read as a whole"


def test_reading_leaves_the_folder_as_it_was(new: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (new / "train").rglob("*")}
    with ckptconv.open(new / "train") as checkpoint:
        for tensor in checkpoint.all_tensors.values():
            tensor.read()
        checkpoint.check_unchanged()
    assert {path: path.stat().st_mtime_ns for path in (new / "train").rglob("*")} == before


def test_a_numbered_manifest_counts_where_the_first_says_so(tmp_path: Path) -> None:
    from tests.support.orbax_files import manifest

    folder = write_store(tmp_path / "x", {"w/zarr.json": zarr_json([1]), "w/c/0": bytes(4)})
    whole = folder / "manifest.ocdbt"
    whole.rename(folder / f"manifest.{2:016x}")
    (folder / f"manifest.{1:016x}").write_bytes(manifest(None))
    whole.write_bytes(manifest(None, kind=1))
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [0]
