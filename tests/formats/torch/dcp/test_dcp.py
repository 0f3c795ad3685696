"""torch.distributed.checkpoint's folders: what torch saved is read, what we write torch loads, and nothing runs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import ckptconv
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    LossError,
    TargetExistsError,
    UnknownFormatError,
    UnsafeError,
)
from tests.conftest import ROOT
from tests.support.reads import bytes_read

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes saved together, and the same state_dict in one file."""
    folder = tmp_path_factory.mktemp("distributed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.distributed", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def save(state: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it saves in one process
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def load(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state


def whole(folder: Path, path: Path) -> Any:
    """What torch's own consolidation makes of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, path)
    return torch.load(path, weights_only=False)


def same(a: object, b: object) -> bool:
    """Equal in value and type, tensors bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return all(map(same, a, b))
    return type(a) is type(b) and a == b


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(dtype).removeprefix("torch."): torch.randint(0, 2, (3, 4), generator=generator).to(dtype)
        for dtype in DTYPES
    }
    tensors |= {"zero-d": torch.tensor(3.5), "zero-d int": torch.tensor(7), "empty": torch.zeros(0, 3)}
    tensors["turned"] = torch.randn(4, 6, generator=generator).T
    optimizer = {"state": {"0": {"exp_avg": torch.randn(3, generator=generator), "step": torch.tensor(2)}}, "lr": 0.1}
    return {"model": tensors, "optimizer": optimizer, "epoch": 3, "name": "x", "none": None, "widths": [4, 2]}


def test_a_checkpoint_of_four_processes_is_one(four: Path, tmp_path: Path) -> None:
    """Cut by rows, by columns, both ways, unevenly, replicated, by fully_shard."""
    assert ckptconv.diff(four / "four", four / "expected.pth").equal
    ckptconv.convert(four / "four", tmp_path / "a.pth")
    assert same(torch.load(tmp_path / "a.pth", weights_only=True), torch.load(four / "expected.pth"))


def test_any_range_of_a_tensor_in_pieces_is_a_range_of_the_whole(four: Path) -> None:
    with ckptconv.open(four / "four") as checkpoint, ckptconv.open(four / "expected.pth") as expected:
        for name, tensor in checkpoint.all_tensors.items():
            image = bytes(expected.all_tensors[name].read())
            for start in range(0, len(image), 7):
                for stop in (start + 1, start + 13, len(image)):
                    stop = min(stop, len(image))
                    assert bytes(tensor.read(start, stop)) == image[start:stop], (name, start, stop)


def test_opening_reads_the_listing_and_the_values_alone(tmp_path: Path) -> None:
    save({"model": {f"t{i}": torch.randn(1000, 100) for i in range(4)}, "epoch": 3}, tmp_path / "d")
    with ckptconv.open(tmp_path / "d") as checkpoint:
        assert bytes_read(checkpoint) < 20_000
        assert checkpoint.metadata == {"epoch": 3}
        assert checkpoint["t2"].info.shape == (1000, 100)


def test_what_one_process_saved_is_what_torch_reads_of_it(tmp_path: Path) -> None:
    save(state(), tmp_path / "d")
    ckptconv.convert(tmp_path / "d", tmp_path / "a.pth")
    found = torch.load(tmp_path / "a.pth", weights_only=False)
    assert same(found, whole(tmp_path / "d", tmp_path / "torch.pth"))
    assert same(found, state())
    ckptconv.convert(tmp_path / "d", tmp_path / "a.safetensors")
    with ckptconv.open(tmp_path / "a.safetensors") as checkpoint:
        assert checkpoint.notes.source == "torch-dcp"


def test_torch_loads_what_is_written(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp")
    assert same(whole(tmp_path / "d", tmp_path / "torch.pth"), state())
    blank = {"model": {name: torch.zeros_like(tensor) for name, tensor in state()["model"].items()}, "epoch": 0}
    found = load(blank, tmp_path / "d")
    assert same(found["model"], state()["model"])
    assert found["epoch"] == 3
    assert ckptconv.diff(tmp_path / "a.pth", tmp_path / "d").equal


def test_types_ties_and_bookkeeping_come_back(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.a = torch.nn.Linear(3, 3)
    model.b = torch.nn.Linear(3, 3)
    model.b.weight = model.a.weight
    torch.save({"widths": (4, 2), 7: {1, 2}, "state_dict": model.state_dict()}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp")
    ckptconv.convert(tmp_path / "d", tmp_path / "b.pth")
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert same({k: v for k, v in found.items() if k != "state_dict"}, {"widths": (4, 2), 7: {1, 2}})
    weights = found["state_dict"]
    assert weights["a.weight"].data_ptr() == weights["b.weight"].data_ptr()
    assert weights._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    for name in ("one", "two"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / name, to_format="torch-dcp")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_is_replaced_with_force_alone_and_its_old_files_go(tmp_path: Path) -> None:
    save({"model": {"w": torch.zeros(3)}}, tmp_path / "d")
    (tmp_path / "d" / "notes.txt").write_text("mine")
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(TargetExistsError):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp", force=True)
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [".metadata", "__0_1.distcp", "notes.txt"]
    assert torch.equal(load({"w": torch.zeros(3)}, tmp_path / "d")["w"], torch.ones(3))


def test_a_failed_write_leaves_no_folder(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3000)}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes()) + 5] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(CkptconvError, match="'w' is damaged"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp")
    assert not (tmp_path / "d").exists()


def test_a_quantized_tensor_is_a_loss(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        torch.save({"w": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)}, tmp_path / "a.pth")
    with pytest.raises(LossError):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp", allow_loss=["composite"])
    assert len(whole(tmp_path / "d", tmp_path / "torch.pth")) >= 3


def test_parts_of_quantized_and_sparse_tensors_are_all_written_wherever_they_stand(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    sparse = torch.eye(3).to_sparse()
    state = {"state_dict": {"w": torch.ones(2), "q": quantized}, "optimizer": {"m": sparse, "q": [quantized]}}
    torch.save(state, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp", allow_loss=["composite"])
    found = whole(tmp_path / "d", tmp_path / "torch.pth")
    assert torch.equal(found["optimizer"]["m"]["indices"], sparse.indices())
    assert torch.equal(found["optimizer"]["m"]["values"], sparse.values())
    assert found["optimizer"]["q"][0]["scale"] == found["state_dict"]["q.scale"] == quantized.q_scale()
    torch.save([sparse], tmp_path / "list.pth")
    ckptconv.convert(tmp_path / "list.pth", tmp_path / "list", to_format="torch-dcp", allow_loss=["composite"])
    with ckptconv.open(tmp_path / "list") as checkpoint:
        assert [tensor.info.shape for tensor in checkpoint.values()] == [(2, 3), (3,)]


def test_a_plain_value_stays_in_a_state_dict_of_which_tensors_were_left_out(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": torch.ones(2), "n": 5}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp", edits=ckptconv.Edits(drop=["b"]))
    ckptconv.convert(tmp_path / "d", tmp_path / "b.pth")
    assert torch.load(tmp_path / "b.pth") == {"a": torch.ones(1), "n": 5}


def damaged(folder: Path, change: Any) -> Path:
    """A folder whose listing torch has read, changed and written again."""
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    change(metadata)
    with (folder / ".metadata").open("wb") as file:
        pickle.dump(metadata, file)
    return folder


def _outside(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = "../elsewhere.distcp"


def _past_the_end(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.offset = 1 << 40


def _overlapping(metadata: Any) -> None:
    metadata.state_dict_metadata["optimizer.state.rows"].chunks[1].offsets = torch.Size((0, 0))


def _gap(metadata: Any) -> None:
    metadata.state_dict_metadata["optimizer.state.rows"].chunks.pop()


def _larger(metadata: Any) -> None:
    metadata.state_dict_metadata["optimizer.state.rows"].size = torch.Size((1 << 40, 6))


def _negative(metadata: Any) -> None:
    metadata.state_dict_metadata["optimizer.state.rows"].size = torch.Size((-1, 6))


@pytest.mark.parametrize("change", [_outside, _past_the_end, _overlapping, _gap, _larger, _negative])
def test_a_listing_that_contradicts_itself_is_refused(four: Path, tmp_path: Path, change: Any) -> None:
    folder = damaged(Path(shutil.copytree(four / "four", tmp_path / "d")), change)
    with pytest.raises(CorruptFileError):
        ckptconv.convert(folder, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize("prefix", ["[[1]]", "[" * 100_000, "{}", "5", "x"])
def test_a_record_with_invalid_paths_is_refused(tmp_path: Path, prefix: str) -> None:
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "d", to_format="torch-dcp")

    def change(metadata: Any) -> None:
        record = json.loads(metadata.ckptconv)
        record["root"]["state_dict"]["$state_dict"]["prefix"] = prefix
        metadata.ckptconv = json.dumps(record)

    with pytest.raises(CorruptFileError, match="has no path"):
        ckptconv.open(damaged(tmp_path / "d", change))


def test_a_missing_or_short_file_is_named(four: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(four / "four", tmp_path / "d"))
    data = (folder / "__2_0.distcp").read_bytes()
    (folder / "__2_0.distcp").write_bytes(data[: len(data) // 2])
    with pytest.raises(CkptconvError, match="__2_0"):
        ckptconv.convert(folder, tmp_path / "a.pth")
    (folder / "__2_0.distcp").unlink()
    with pytest.raises(CkptconvError, match="__2_0"):
        ckptconv.convert(folder, tmp_path / "a.pth")
    (folder / ".metadata").unlink()  # as cp FOLDER/* leaves it out
    with pytest.raises(UnknownFormatError, match=r"without its hidden file \.metadata"):
        ckptconv.open(folder)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_listing_that_calls_something_runs_nothing(four: Path, tmp_path: Path) -> None:
    def plant(metadata: Any) -> None:
        metadata.storage_meta = Canary(tmp_path / "canary")

    folder = damaged(Path(shutil.copytree(four / "four", tmp_path / "d")), plant)
    with pytest.raises(UnsafeError, match="would run code"):
        ckptconv.inspect(folder)
    with pytest.raises(UnsafeError, match="would run code"):
        ckptconv.convert(folder, tmp_path / "a.pth", allow_loss=["all"])
    assert not (tmp_path / "canary").exists()


def test_a_flipped_bit_is_found(four: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(four / "four", tmp_path / "d"))
    rows = torch.load(four / "expected.pth")["optimizer"]["state"]["rows"]
    for path in folder.glob("*.distcp"):
        data = bytearray(path.read_bytes())
        place = data.find(bits(rows[3:6]))
        if place >= 0:
            data[place + 9] ^= 4
            path.write_bytes(data)
            break
    else:
        pytest.fail("the chunk is in no file")
    with pytest.raises(CkptconvError, match=r"optimizer\.state\.rows"):
        ckptconv.convert(folder, tmp_path / "a.pth")


def test_one_of_the_files_alone_is_said_to_be_that(tmp_path: Path) -> None:
    folder = save({"a": torch.ones(2), "b": {"c": torch.ones(3)}, "step": 3}, tmp_path / "saved")
    file = next(folder.glob("*.distcp"))
    with pytest.raises(
        UnknownFormatError, match=r"one of the files of a torch\.distributed\.checkpoint's folder"
    ) as said:
        ckptconv.inspect(file)
    assert said.value.hint == f"name the folder: {folder}"


def test_what_lightning_keeps_beside_it_is_reported(tmp_path: Path) -> None:
    folder = save({"model": {"w": torch.ones(2)}}, tmp_path / "a.ckpt")
    torch.save({"epoch": 1, "hyper_parameters": {"width": 3}}, folder / "meta.pt")
    told = ckptconv.inspect(folder).checkpoint.findings
    assert [(one.code, one.hint) for one in told] == [("beside", f"name {folder / 'meta.pt'} for it")]
    assert ckptconv.open(folder / "meta.pt").metadata["hyper_parameters"] == {"width": 3}
