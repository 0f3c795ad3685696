"""What README and the pages beside the code say is true: commands run, tables are the registry's, links lead on."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import xxhash
from safetensors.numpy import save_file

import ckptconv
from ckptconv.arch.load import library, parse_text
from ckptconv.arch.table import expand
from ckptconv.edits.dialects.gguf_projectors import projectors
from ckptconv.edits.dialects.gguf_table import architectures
from ckptconv.edits.dialects.mlx import MODELS as MLX_MODELS
from ckptconv.formats.registry import BUILTIN
from ckptconv.formats.targets.preflight import CODES
from tests.arch.families.diffusion import asked
from tests.edits.adapters.lora_cases import case
from tests.support.hub import small_adapter, small_qwen2
from tests.support.mmproj import folder_of
from tests.support.pipelines import save_pipeline

if TYPE_CHECKING:
    from ckptconv.formats.base import Format

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "ckptconv/arch/README.md",
        "ckptconv/edits/README.md",
        "ckptconv/formats/README.md",
        "ckptconv/checks/README.md",
        "tests/benchmarks/README.md",
        "tests/hostile/README.md",
    )
}
README, ARCH, EDITS, FORMATS, *_ = PAGES.values()
FIXTURES = ROOT / "fixtures"

PLAYED_BY = {
    "model.pth": "digits-metadata.pth",
    "training.pth": "digits-training.pth",
    "raw.pth": "digits-raw.pth",
    "model.keras": "others/keras-3.keras",
    "downloads/a.pth": "views.pth",
    "downloads/b.pth": "tied.pth",
}
"""Which fixture plays each file that README's commands name."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[tuple[str, str]]:
    """Every command of a page, and what it shows below as its output."""
    found: list[tuple[str, str]] = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            found.append((line.split(" #")[0].strip(), shown.rstrip("\n")))
    return found


def anchors(page: str, depth: str = "#+") -> list[str]:
    """What the headings of a page are called in links, as GitHub calls them."""
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(rf"^{depth} (.+)$", prose, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_contents_lead_to_every_section() -> None:
    contents = README.split("\n## ")[0]
    assert re.findall(r"\]\(#([^)]+)\)", contents) == anchors(README, "##")
    assert set(PAGES) - {"README.md"} <= set(re.findall(r"\]\(([^)#]+)[^)]*\)", contents))


@pytest.mark.parametrize("name", PAGES)
def test_all_links_lead_somewhere(name: str) -> None:
    for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", PAGES[name]):
        led = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert led.exists(), path
        assert not anchor or anchor in anchors(led.read_text(encoding="utf-8")), (path, anchor)


def test_every_page_is_known_here() -> None:
    found = {str(path.relative_to(ROOT)) for room in ("ckptconv", "tests") for path in (ROOT / room).rglob("README.md")}
    assert found == set(PAGES) - {"README.md"}


def test_the_readme_names_the_fixtures_that_its_commands_use() -> None:
    said = dict(re.findall(r"`([\w.]+)`\s+is\s+`([\w./-]+)`", README.split("## What people do")[1].split("```")[0]))
    assert said == {name: fixture for name, fixture in PLAYED_BY.items() if not name.startswith("downloads/")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that README's commands name, and `ckptconv` and `python` on the path."""
    return prepared(tmp_path_factory.mktemp("readme"))


def prepared(folder: Path) -> Path:
    for name, fixture in PLAYED_BY.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(FIXTURES / fixture, folder / name)
    ckptconv.convert(FIXTURES / "digits-metadata.pth", folder / "digits.safetensors")
    whole = asked("translations")["tiny"]["source"]
    save_file({name: np.zeros(shape, "f2") for name, shape in whole.items()}, folder / "sd.safetensors")
    made = asked("translations")["unclip"]["components"]
    parts = {part: {name: np.zeros(row[0], "f2") for name, row in rows.items()} for part, rows in made.items()}
    save_pipeline(folder / "pipeline", parts)
    fp8 = ckptconv.Edits(select=["ct-fp8-rows-*/source/*"])
    ckptconv.convert(FIXTURES / "quantized" / "quantized.safetensors", folder / "fp8.safetensors", edits=fp8)
    case("lora", folder)
    small_qwen2(folder / "qwen2")
    small_adapter(folder / "style")
    folder_of("gemma3", folder / "gemma3")
    tools = folder / "bin"
    tools.mkdir()
    for name, what in {"ckptconv": f"{sys.executable} -m ckptconv", "python": sys.executable}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {what} "$@"\n')
        (tools / name).chmod(0o755)
    return folder


def test_every_command_of_the_readme_runs_in_its_order(place: Path) -> None:
    assert len(commands(README)) >= 10
    run_all(commands(README), place)


def test_every_command_of_the_page_of_architectures_runs(tmp_path: Path) -> None:
    assert len(commands(ARCH)) == 4
    run_all(commands(ARCH), prepared(tmp_path))


def run_all(lines: list[tuple[str, str]], place: Path) -> None:
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for command, shown in lines:
        done = subprocess.run(command, shell=True, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert not shown or done.stdout.rstrip("\n") == shown, command


def test_git_shows_what_changed_in_a_checkpoint(place: Path, tmp_path: Path) -> None:
    lines = README.split("<!-- command: git -->")[1].split("```")[1].removeprefix("sh\n")
    environment = {
        **os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
        **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }  # fmt: skip

    def sh(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sh("git init -q .")
    sh(lines)
    torch.save({"a.weight": torch.zeros(2, 2), "b.weight": torch.ones(3)}, tmp_path / "model.pth")
    sh("git add -A && git commit -qm one")
    torch.save({"a.weight": torch.zeros(2, 2), "b.weight": torch.full((3,), 2.0)}, tmp_path / "model.pth")
    changed = [line for line in sh("git diff").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line[:9] for line in changed if "weight" in line] == ["-b.weight", "+b.weight"]
    assert [line for line in changed if "digest" in line]
    assert not [line for line in sh("git diff").splitlines() if "Binary files" in line]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIXTURES, tmp_path / "fixtures")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["tensor"].info.shape == (10, 32)


def yes_no(value: object) -> str:
    return "yes" if value else "no"


def suffixes(one: Format) -> str:
    return " ".join(f"`{suffix}`" for suffix in one.suffixes) or "a folder"


def test_the_table_of_formats_is_the_registry() -> None:
    table = README.split("<!-- table: formats -->")[1].split("\n\n")[0].strip().splitlines()[2:]
    rows = [f"| `{one.name}` | yes | {yes_no(one.writer)} | {suffixes(one)} | {one.summary} |" for one in BUILTIN]
    assert table == rows


def test_the_table_of_architectures_is_the_library() -> None:
    table = ARCH.split("<!-- table: architectures -->")[1].split("\n\n")[0].strip().splitlines()[2:]
    assert table == [f"| `{entry.name}` | {entry.summary} |" for entry in library()]


def test_the_architectures_of_gguf_are_those_that_are_known() -> None:
    listed = " ".join(EDITS.split()).split("It knows the architectures ")[1].split("refuses others")[0]
    assert re.findall(r"`([^`]+)`", listed) == list(architectures())


def test_the_models_of_mlx_lm_are_those_that_are_known() -> None:
    listed = EDITS.partition("It knows, by their `model_type`: ")[2].partition(".")[0]
    assert re.findall(r"`([^`]+)`", listed) == sorted(MLX_MODELS)


def test_the_table_of_classes_that_become_gguf_is_the_one_that_is_read() -> None:
    table = EDITS.partition("| `general.architecture` | classes")[2].partition("\n\n")[0]
    written = {name: {*one.classes} for name, one in architectures().items() if one.classes}
    listed: list[str] = []
    for row in table.splitlines()[2:]:
        names, classes = (re.findall(r"[\w-]+", cell) for cell in row.split("|")[1:3])
        ends = ("LM", "LMHeadModel", "Model", "Generation", "PreTraining")
        assert {one for one in classes if one.endswith(ends)} == set[str]().union(*(written[name] for name in names))
        listed += names
    assert sorted(listed) == sorted(written)


def test_the_table_of_classes_that_have_a_second_file_is_the_one_that_is_read() -> None:
    table = EDITS.partition("| `clip.projector_type` | classes")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    listed = {name.strip(" `"): set(re.findall(r"\w+(?:Generation|Model)\b", classes)) for name, classes in rows}
    assert listed == {name: {*one.classes} for name, one in projectors().items()}


def test_the_spec_of_the_readme_is_one() -> None:
    (text,) = blocks(ARCH, "toml")
    spec = parse_text(text)
    values: dict[str, Any] = {"vocab": 9, "hidden": 4, "layers": 2, "widths": [8, 6], "variant": "norm"}
    head: dict[str, Any] = {"classifier.hidden_layers": [3], "classifier.output_size": 2}
    table = expand(spec, {**values, **head})
    assert table.findings == ()
    shapes = {name: entry.shape for name, entry in table.tensors.items()}
    assert shapes["layers.1.up.weight"] == (6, 4)
    assert shapes["classifier.hidden_layers.0.weight"] == (3, 4)
    assert (shapes["layers.0.norm.weight"], shapes["layers.1.scale"], "pool.weight" in shapes) == ((4,), (), False)


def test_the_rules_of_the_readme_are_made_and_undone(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(blocks(EDITS, "toml")[0])
    state = {f"model.{i}.{part}.weight": torch.randn(64, 8) for i in range(2) for part in "qkv"}
    torch.save(state, tmp_path / "a.pth")
    rules = [tmp_path / "rules.toml"]
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(names=rules))
    fused = torch.load(tmp_path / "b.pth", weights_only=True)
    assert torch.equal(fused["1.qkv.weight"], torch.cat([state[f"model.1.{part}.weight"] for part in "qkv"]))
    ckptconv.convert(tmp_path / "b.pth", tmp_path / "c.pth", edits=ckptconv.Edits(names=rules, reverse=True))
    assert ckptconv.diff(tmp_path / "a.pth", tmp_path / "c.pth").equal


def test_the_invalid_checkpoint_of_the_readme_is_reported_as_it_says(place: Path) -> None:
    checkpoint = torch.load(place / "model.pth", weights_only=True)
    state = checkpoint["state_dict"]
    state["hidden_layers.1.weight"] = state["hidden_layers.1.weight"].T.contiguous()
    broken = {"output_size": 12, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save({**checkpoint, **broken}, place / "broken.pth")
    assert output_of("validate", place / "broken.pth") == (golden("invalid"), 1)


def test_the_difference_of_the_readme_is_reported_as_it_says(place: Path) -> None:
    checkpoint = torch.load(place / "model.pth", weights_only=True)
    state = {
        f"module.{name}": tensor.half() if name.startswith("hidden") else tensor
        for name, tensor in checkpoint["state_dict"].items()
    }
    state["module.output.bias"][3] += 0.25
    torch.save({**checkpoint, "epoch": 7, "state_dict": state}, place / "tuned.pth")
    assert output_of("diff", place / "model.pth", place / "tuned.pth") == (golden("diff"), 1)


def golden(name: str) -> str:
    """The block below `<!-- golden: NAME -->` in README."""
    return README.split(f"<!-- golden: {name} -->\n```text\n")[1].split("```")[0]


def output_of(*line: object) -> tuple[str, int]:
    """What a command prints, and its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ckptconv", *map(str, line)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout, done.returncode


def test_the_table_of_losses_has_every_code_that_can_occur() -> None:
    section = README.split("## What is lost")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(CODES)


def test_the_golden_record_is_what_is_written(tmp_path: Path) -> None:
    checkpoint = {"input_size": 784, "hidden_layers": (512, 256), "state_dict": OrderedDict(weight=torch.zeros(2))}
    torch.save(checkpoint, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    written = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", written[:8])
    metadata = json.loads(written[8 : 8 + length])["__metadata__"]
    (record,) = blocks(FORMATS, "json")
    assert metadata == json.loads(record)
    assert list(metadata) == list(json.loads(record))


def test_the_digest_is_what_the_readme_says_how_to_compute() -> None:
    def line(*cells: object) -> str:
        return json.dumps(cells, separators=(",", ":")) + "\n"

    zeros = xxhash.xxh3_128_hexdigest(bytes(8))
    metadata = {"hidden_layers": {"$tuple": [512, 256]}, "input_size": 784}
    lines = line("weight", "F32", [2], zeros) + line("metadata", metadata)
    assert f"xxh3-128:{xxhash.xxh3_128_hexdigest(lines.encode())}" in blocks(FORMATS, "json")[0]
