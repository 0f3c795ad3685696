"""GPT-SoVITS writes its version, two digits, over the first two bytes of what torch.save wrote."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError

VOICE = {
    "weight": {"enc_p.proj.weight": torch.arange(12.0).reshape(3, 4).half(), "dec.bias": torch.ones(3)},
    "config": {"model": {"version": "v2Pro"}}, "info": "8epoch_200iteration",
}  # fmt: skip


def stamped(path: Path, value: object, stamp: bytes) -> Path:
    """A file as GPT-SoVITS' my_save2 writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(stamp + buffer.getvalue()[2:])
    return path


def loaded(path: Path) -> Any:
    """What GPT-SoVITS' load_sovits_new loads."""
    return torch.load(io.BytesIO(b"PK" + path.read_bytes()[2:]))


@pytest.mark.parametrize("stamp", [b"00", b"03", b"06", b"09"])
def test_a_voice_model_is_what_its_own_loader_loads(stamp: bytes, tmp_path: Path) -> None:
    path = stamped(tmp_path / "voice.pth", VOICE, stamp)
    ckptconv.convert(path, tmp_path / "plain.pth")
    expected, found = loaded(path), torch.load(tmp_path / "plain.pth")
    assert found.keys() == expected.keys()
    assert found["config"] == expected["config"]
    assert all(torch.equal(found["weight"][name], tensor) for name, tensor in expected["weight"].items())
    with ckptconv.open(path) as checkpoint:
        assert [(one.code, one.found) for one in checkpoint.findings] == [("stamped", stamp.decode())]


class Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/nowhere/file"),)


@pytest.mark.parametrize("name", ["voice.pth", "voice"])
def test_code_in_a_voice_model_counts_wherever_it_lies(name: str, tmp_path: Path) -> None:
    path = stamped(tmp_path / name, {"weight": VOICE["weight"], "config": Call()}, b"05")
    for where in (path, tmp_path):
        assert ckptconv.inspect(where).verdict == "would run code"


@pytest.mark.parametrize("stamp", [b"0x", b"50", b"PX"])
def test_other_bytes_in_place_of_pk_are_none_of_its_marks(stamp: bytes, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError):
        ckptconv.open(stamped(tmp_path / "voice.pth", VOICE, stamp))
