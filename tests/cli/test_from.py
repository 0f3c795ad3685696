"""``--from FORMAT``: every command that reads a checkpoint takes a format in place of what the bytes say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from tests.cli.conftest import strict

if TYPE_CHECKING:
    from tests.cli.conftest import Run

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The first of two parts of a GGUF: by its bytes it stands for all four tensors, as a plain GGUF it holds two."""
    writer = GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    for name in "abcd":
        writer.add_tensor(f"{name}.weight", np.ones((2, 3), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m-00001-of-00002.gguf"


def test_inspect_shows_what_that_format_reads(run: Run, first: Path) -> None:
    def names(*more: str) -> list[str]:
        tensors = strict(run("inspect", first, "--json", *more).output)["tensors"]
        return [entry["name"] for entry in tensors]

    assert names() == ["a.weight", "b.weight", "c.weight", "d.weight"]
    assert names("--from", "gguf") == ["a.weight", "b.weight"]
    assert names("--from", "gguf", "--tensor", "b.weight") == ["b.weight"]
    assert run("inspect", first, "--from", "gguf", "--tensor", "c.weight").exit_code == 2


def test_of_blocks_the_first_bytes_are_shown_as_such(run: Run, tmp_path: Path) -> None:
    writer, blocks = GGUFWriter(tmp_path / "q.gguf", "llama"), np.arange(3 * 34, dtype=np.uint8).reshape(1, -1)
    writer.add_tensor("w", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert f"first bytes  {bytes(range(64)).hex()}\n" in run("inspect", tmp_path / "q.gguf", "--tensor", "w").stdout


def test_diff_takes_one_for_both_and_one_for_each(run: Run, first: Path) -> None:
    assert run("diff", first, first, "--from", "gguf").exit_code == 0
    removed = strict(run("diff", first, first, "--from-b", "gguf", "--json").output)
    added = strict(run("diff", first, first, "--from", "gguf-split", "--from-a", "gguf", "--json").output)
    for found, code in ((removed, "removed"), (added, "added")):
        codes = [finding["code"] for finding in found["findings"]]
        assert [one for one in codes if not one.startswith("metadata")] == [code, code]


def test_validate_and_infer_see_the_tensors_of_that_format(run: Run, first: Path, tmp_path: Path) -> None:
    spec = tmp_path / "part.toml"
    assert run("arch", "infer", first, "--from", "gguf", "-o", spec).exit_code == 0
    assert '"c.weight"' not in spec.read_text()
    assert run("validate", first, "--from", "gguf", "--arch", spec).exit_code == 0
    assert run("validate", first, "--arch", spec).exit_code == 1


def test_the_command_line_of_a_hint_says_it_again(run: Run, first: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.toml"
    assert run("arch", "infer", first, "-o", whole).exit_code == 0
    refused = run("convert", first, tmp_path / "b.pth", "--from", "gguf", "--arch", whole)
    assert f"hint: ckptconv validate {first} --from gguf --arch {whole} says more" in refused.output
    graph = run("convert", FIXTURES / "digits-raw.pth", tmp_path / "b.onnx", "--from", "torch")
    assert "b.onnx --from torch --arch mlp" in graph.output


def test_verify_runs_each_as_what_it_is_said_to_be(run: Run, tmp_path: Path) -> None:
    source, saved = FIXTURES / "digits-metadata.pth", tmp_path / "out.npz"
    kept = run("verify", source, "--save-outputs", saved, "--from", "torch")
    assert kept.exit_code == 0, kept.output
    assert run("verify", source, source, "--from-a", "torch").exit_code == 0
    for wrong in ([source, "--from-b"], [source, "--from-a"], [source, "--from"], ["--outputs", saved, "--from"]):
        done = run("verify", source, *wrong, "safetensors")
        assert (done.exit_code, str(source) in done.output) == (2, True), done.output
    assert "--from-b needs B" in run("verify", source, "--outputs", saved, "--from-b", "torch").output
    assert run("convert", source, tmp_path / "b.safetensors", "--from", "torch", "--verify").exit_code == 0
