"""What is told of files and folders for which another is to be named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptconv
from ckptconv.errors import UnknownFormatError

OTHERS = Path(__file__).parents[2] / "fixtures" / "others"


def refusal(path: Path) -> UnknownFormatError:
    with pytest.raises(UnknownFormatError) as caught:
        ckptconv.open(path)
    return caught.value


@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "meta"])
def test_of_a_file_of_tensorflows_the_index_is_named(tmp_path: Path, suffix: str) -> None:
    index = tmp_path / "model.ckpt.index"
    shutil.copy(OTHERS / "tensorflow-exported.ckpt.index", index)
    other = tmp_path / f"model.ckpt.{suffix}"
    shutil.copy(OTHERS / "tensorflow-exported.ckpt.data-00000-of-00001", other)
    assert refusal(other).hint == f"name its index: {index}"
    index.unlink()
    assert "name its index" not in (refusal(other).hint or "")


def test_of_the_hubs_cache_the_snapshot_is_named(tmp_path: Path) -> None:
    cached = tmp_path / "models--someone--some"
    snapshot = cached / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (cached / "blobs").mkdir()
    save_file({"w": torch.ones(2)}, cached / "blobs" / "feed")
    (snapshot / "model.safetensors").symlink_to("../../blobs/feed")
    error = refusal(cached)
    assert "the hub's cache" in str(error)
    assert error.hint == f"name {snapshot}"


def test_of_what_accelerate_wrote_the_model_is_named_before_the_optimizer(tmp_path: Path) -> None:
    for name in ("optimizer_0", "pytorch_model_fsdp_0"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(2)}, tmp_path / name / "model.safetensors")
    hint = refusal(tmp_path).hint or ""
    assert hint.startswith(f"name one of them, such as {tmp_path / 'pytorch_model_fsdp_0'};")


def test_a_frozen_graph_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "frozen.pb").write_bytes(b"\n\x25\n\x01x\x12\x0bPlaceholder\xff\xfe")
    assert "frozen" in str(refusal(tmp_path / "frozen.pb"))
