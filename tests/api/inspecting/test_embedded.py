"""Bytes in a checkpoint that are a file of their own: what they would run counts, a model that is in them is read."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as distributed

import ckptconv
from ckptconv.api.inspecting import embedded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Payload:
    """What makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def saved(value: Any, **options: Any) -> bytes:
    """torch.save's archive."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def squeezed(data: bytes) -> bytes:
    """The same archive with everything in it compressed, as nobody writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


HIDDEN: dict[str, Callable[[Payload], Any]] = {
    "a pickle": lambda payload: pickle.dumps({"state": payload}),
    "an archive": lambda payload: saved({"w": torch.ones(2), "x": payload}),
    "torch's older files": lambda payload: saved(
        {"w": torch.ones(2), "x": payload}, _use_new_zipfile_serialization=False
    ),
    "a pickle in a pickle in a list": lambda payload: [1, pickle.dumps({"inner": pickle.dumps(payload)})],
    "a pickle that breaks off behind the call": lambda payload: pickle.dumps(payload, 2)[:-1],
    "a bytearray": lambda payload: bytearray(pickle.dumps(payload)),
    "a long run of bytes": lambda payload: pickle.dumps([payload, b"." * 5000]),
}


def loaded(value: Any) -> None:
    """What a library does that keeps such bytes."""
    if isinstance(value, (bytes, bytearray)) and value[:1] in (b"P", b"\x80"):
        with suppress(EOFError):  # behind the call
            is_torchs = value[:1] == b"P" or b"protocol_version" in value
            loaded(torch.load(io.BytesIO(value), weights_only=False) if is_torchs else pickle.loads(value))
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            loaded(one)


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("model", [{}, {"state_dict": {"w": torch.ones(3)}}], ids=["no tensor besides", "a model"])
def test_what_bytes_would_run_counts(hide: Callable[[Payload], Any], model: dict[str, Any], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    value = hide(Payload(trace))
    loaded(value)
    assert trace.exists(), "the payload is dead"
    trace.rmdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save({**model, "blob": value}, folder / "a.pth")
    for path in (folder / "a.pth", folder):
        found = ckptconv.inspect(path)
        assert found.verdict == "would run code"
        assert [use.node.name for use in found.opaque if use.runs] in ([f"{os.name}.mkdir"], ["pickle.loads"])
        assert "blob" in found.opaque[0].where
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("below", ["", "step-10", "step-10/model"])
def test_so_does_what_they_would_run_in_a_distributed_checkpoint(below: str, tmp_path: Path) -> None:
    values = {"w": torch.ones(3), "blob": pickle.dumps(Payload(tmp_path / "trace"))}
    distributed.save(values, checkpoint_id=tmp_path / "run" / below, no_dist=True)
    found = ckptconv.inspect(tmp_path / "run")
    assert found.verdict == "would run code"
    assert [use.node.name for use in found.opaque] == [f"{os.name}.mkdir"]
    assert found.opaque[0].where.startswith(below)
    assert found.opaque[0].where.endswith("blob")
    assert not (tmp_path / "trace").exists()


def test_bytes_that_only_start_as_such_files_are_data(tmp_path: Path) -> None:
    beside = {"a": b"PK\x03\x04 and no archive", "b": b"\x80\x04abc", "c": b"\x89HDF and no more", "d": b"\x80\x02"}
    torch.save({"state_dict": {"w": torch.ones(3)}, **beside, "e": pickle.dumps({"plain": [1, 2]})}, tmp_path / "a.pth")
    assert ckptconv.inspect(tmp_path / "a.pth").verdict == "plain"


def test_a_class_that_bytes_name_is_reported(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3), "blob": b"\x80\x02cmodels\nNet\n."}, tmp_path / "a.pth")
    found = ckptconv.inspect(tmp_path / "a.pth")
    assert found.verdict == "opaque"
    assert [use.name for use in found.globals if not use.known] == ["models.Net"]


@pytest.mark.parametrize("limit", ["MAX_EMBEDDED", "MAX_NESTING"])
def test_what_is_too_much_to_be_looked_at_is_no_plain_file(
    limit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, limit, 2)
    flat, deep = [pickle.dumps(i) for i in range(3)], pickle.dumps({"x": pickle.dumps({"x": pickle.dumps(1)})})
    torch.save({"w": torch.ones(3), "blob": flat if limit == "MAX_EMBEDDED" else deep}, tmp_path / "a.pth")
    assert ckptconv.inspect(tmp_path / "a.pth").verdict == "would run code"


def test_archives_that_become_too_large_are_not_inflated(tmp_path: Path) -> None:
    bomb = squeezed(saved({"x": bytes(1 << 23)}))
    torch.save({"w": torch.ones(3), "blob": [bomb, bytes(bytearray(bomb))]}, tmp_path / "a.pth")
    assert ckptconv.inspect(tmp_path / "a.pth").verdict == "would run code"


@pytest.mark.parametrize("size", [3, 3000], ids=["short", "long"])
@pytest.mark.parametrize("keep", [saved, pickle.dumps], ids=["an archive", "a pickle"])
@pytest.mark.parametrize("name", ["agent.d3", "agent.pth"])
def test_a_model_in_the_bytes_of_a_dict_is_read(
    size: int, keep: Callable[[Any], bytes], name: str, tmp_path: Path
) -> None:
    weights = {"0.weight": torch.randn(size, 2), "0.bias": torch.randn(2)}
    value = {"torch": keep({"policy": weights, "step": 7}), "config": "{}", "version": "2.8.1"}
    path = tmp_path / name
    path.write_bytes(pickle.dumps(value) if name.endswith("d3") else saved(value))
    with ckptconv.open(path) as checkpoint:
        assert {name: tensor.to_torch().tolist() for name, tensor in checkpoint.items()} == {
            name: tensor.tolist() for name, tensor in weights.items()
        }
        assert [finding.code for finding in checkpoint.findings] == ["embedded"]
    ckptconv.convert(path, tmp_path / "x.safetensors")
    ckptconv.convert(tmp_path / "x.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth")
    assert back.keys() == value.keys()
    assert back["torch"]["step"] == 7
    assert all(torch.equal(back["torch"]["policy"][name], tensor) for name, tensor in weights.items())
    assert ckptconv.inspect(path).verdict == "plain"


def test_beside_a_model_such_bytes_stay_as_they_are(tmp_path: Path) -> None:
    value = {"state_dict": {"w": torch.ones(3)}, "old": saved({"w": torch.zeros(3)})}
    torch.save(value, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    assert torch.load(tmp_path / "b.pth")["old"] == value["old"]
