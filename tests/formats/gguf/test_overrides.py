"""What ``--meta`` says of a GGUF: the types with which llama.cpp asks for it, as the gguf package reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from gguf import GGUFReader

import ckptconv
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from pathlib import Path

META: Any = {
    "general.architecture": "llama", "general.file_type": 0, "llama.block_count": 2, "llama.attention.head_count": 4,
    "llama.rope.freq_base": 10000.0, "general.name": "small",
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save({"w": torch.ones(4, 32)}, tmp_path / "w.pth")
    ckptconv.convert(tmp_path / "w.pth", tmp_path / "w.gguf", metadata=META, bare=True)
    return tmp_path / "w.gguf"


@pytest.mark.parametrize(("key", "value", "kind"), [
    ("general.file_type", "abc", "uint32"), ("general.file_type", 1.5, "uint32"), ("general.file_type", -3, "uint32"),
    ("general.quantization_version", "2b", "uint32"), ("general.architecture", [1], "string"),
    ("llama.block_count", "abc", "uint32"), ("llama.rope.freq_base", "far", "float32"),
])  # fmt: skip
def test_a_value_of_another_type_is_refused(key: str, value: Any, kind: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=f"^--meta {key}: .* is not a {kind}, which llama.cpp expects there"):
        ckptconv.convert(model, tmp_path / "out.gguf", metadata={key: value})
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("value", [7, 0, "abc"])
def test_an_invalid_alignment_is_refused(value: Any, model: Path, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"^--meta general\.alignment: .* is not a power of two"):
        ckptconv.convert(model, tmp_path / "out.gguf", metadata={"general.alignment": value})


@pytest.mark.parametrize(("key", "value", "read"), [
    ("general.file_type", 1, 1), ("general.name", 5, "5"), ("llama.rope.freq_base", 500000, 500000.0),
    ("llama.attention.head_count", [4, 2], [4, 2]), ("general.alignment", 64, 64), ("llama.new", "abc", "abc"),
])  # fmt: skip
def test_a_value_of_the_type_is_what_the_gguf_package_reads(
    key: str, value: Any, read: Any, model: Path, tmp_path: Path
) -> None:
    ckptconv.convert(model, tmp_path / "out.gguf", metadata={key: value})
    assert GGUFReader(tmp_path / "out.gguf").fields[key].contents() == read


def test_keys_of_the_specification_are_checked_on_the_way_from_another_format(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4, 32)}, tmp_path / "w.pth")
    with pytest.raises(EditError, match="is not a uint32"):
        ckptconv.convert(tmp_path / "w.pth", tmp_path / "out.gguf", metadata={"general.file_type": "abc"})
    ckptconv.convert(tmp_path / "w.pth", tmp_path / "out.gguf", metadata={"epoch": "abc"})
    assert GGUFReader(tmp_path / "out.gguf").fields["epoch"].contents() == "abc"
