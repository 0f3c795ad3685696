"""``ckptconv inspect``: the page, the list, one tensor, JSON, exit codes."""

from __future__ import annotations

import argparse
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ckptconv import convert
from ckptconv.checks import stats
from ckptconv.cli.text.tensor import ends

from .conftest import Call, Run, strict

if TYPE_CHECKING:
    from pathlib import Path


def lines(path: Path, run: Run, *options: str) -> list[str]:
    result = run("inspect", path, *options)
    assert result.exit_code == 0, result.stderr
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path)
    return path


def test_the_header_says_what_a_person_wants_first(run: Run, model: Path) -> None:
    page = lines(model, run)
    assert page[0] == str(model)
    assert "format torch" in page
    assert "model 15 parameters (60 B)" in page
    assert "tensors 2: F32 ×2" in page
    assert "verdict plain: tensors and plain data, nothing that runs" in page
    assert any(line.startswith("file size ") for line in page)


def test_it_says_what_a_file_was_converted_from_and_of_no_other(run: Run, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "made.safetensors")
    assert "converted from  torch\n" in run("inspect", tmp_path / "made.safetensors").output
    save_file({"a": torch.ones(2000), "b": torch.ones(2000)}, tmp_path / "others.safetensors")
    convert(tmp_path / "others.safetensors", tmp_path / "parts", shard_size="8KB")
    for path in (tmp_path / "others.safetensors", tmp_path / "parts"):
        assert "converted from" not in run("inspect", path).output


def test_metadata_keeps_its_types_in_sight(run: Run, model: Path) -> None:
    page = lines(model, run)
    assert {"input_size 4", "hidden [3]", "betas (0.9, 0.999)"} <= set(page)


def test_repeated_layers_are_folded(run: Run, tmp_path: Path) -> None:
    state = {f"layers.{i}.{name}": torch.zeros(2, 2) for i in range(32) for name in ("q", "k")}
    page = lines(save(tmp_path / "m.pth", state), run)
    assert "layers.0–31 ×32" in page
    assert {"├─ q F32 [2, 2]", "└─ k F32 [2, 2]"} <= set(page)
    assert sum("F32 [" in line for line in page) == 2


def test_names_with_slashes_are_a_tree_of_these(run: Run, tmp_path: Path) -> None:
    state = {f"net/layer_._{i}/{name}:0": torch.ones(2) for i in range(2) for name in ("kernel", "bias")}
    wanted = ["net", "├─ layer_._0", "│ ├─ kernel:0 F32 [2]", "│ └─ bias:0 F32 [2]", "└─ layer_._1"]
    page = lines(save(tmp_path / "m.pth", state), run)
    assert page[page.index("net") :][:5] == wanted
    folded = {f"layers/{i}/w.x": torch.ones(2) for i in range(3)}
    assert "layers/0–2/w.x ×3 F32 [2]" in lines(save(tmp_path / "n.pth", folded), run)


def test_layers_in_the_order_of_their_names_are_folded_too(run: Run, tmp_path: Path) -> None:
    state = {f"layers.{i}.q": torch.zeros(2) for i in sorted(range(12), key=str)}
    assert "layers.0–11.q ×12 F32 [2]" in lines(save(tmp_path / "m.pth", state), run)


def test_widths_dtypes_and_gaps_that_differ_are_not_folded(run: Run, tmp_path: Path) -> None:
    tensors = [torch.zeros(2), torch.zeros(3), torch.zeros(3, dtype=torch.float16), torch.zeros(3, dtype=torch.float16)]
    state = {f"net.{i}.w": tensor for i, tensor in enumerate(tensors)} | {"net.7.w": tensors[-1]}
    page = lines(save(tmp_path / "m.pth", state), run)
    wanted = ["├─ 0.w F32 [2]", "├─ 1.w F32 [3]", "├─ 2–3.w ×2 F16 [3]", "└─ 7.w F16 [3] = net.3.w"]
    assert [line for line in page if ".w " in line and "─" in line] == wanted


def test_layers_that_tie_tensors_inside_of_themselves_are_folded(run: Run, tmp_path: Path) -> None:
    state = {}
    for i in range(3):
        state[f"layers.{i}.a"] = state[f"layers.{i}.b"] = torch.zeros(2)
    assert "└─ b F32 [2] = layers.0.a" in lines(save(tmp_path / "m.pth", state), run)


def test_a_name_that_is_also_a_prefix_is_shown_once_with_what_is_below_it(run: Run, tmp_path: Path) -> None:
    state = {"a": torch.zeros(1), "a.b": torch.zeros(2), "c.d": torch.zeros(3), "c": torch.zeros(4)}
    page = lines(save(tmp_path / "m.pth", state), run)
    assert page[page.index("tensors") + 1 :][:4] == ["a F32 [1]", "└─ b F32 [2]", "c F32 [4]", "└─ d F32 [3]"]


def test_names_of_dots_alone_do_no_harm(run: Run, tmp_path: Path) -> None:
    state = {name: torch.zeros(1) for name in ("", ".", "..", "a." * 5000, "a..b", "0", "00", "١.w")}
    path = save(tmp_path / "m.pth", state)
    assert len(lines(path, run)) > 8
    assert len(lines(path, run, "--list")) == 1 + len(state)


def test_a_tensor_under_its_own_name_is_no_metadata_too(run: Run, tmp_path: Path) -> None:
    value = {"state_dict": {"w": torch.zeros(2)}, "mean": torch.ones(3), "stats": {"a": torch.ones(1)}, "epoch": 3}
    torch.save(value, tmp_path / "a.pth")
    before, metadata = run("inspect", tmp_path / "a.pth").stdout.split("\nmetadata\n")
    assert "mean" in before
    assert [line.split()[0] for line in metadata.splitlines()] == ["stats", "epoch"]


def test_ties_and_extras_are_shown(run: Run, training: Path, tmp_path: Path) -> None:
    shared = torch.zeros(4)
    path = save(tmp_path / "tied.pth", {"embed": shared, "head": shared})
    assert "ties embed = head" in lines(path, run)
    assert "model 4 parameters (16 B)" in lines(path, run)
    assert "tensors outside of the model" in lines(training, run)
    assert "optimizer.state.0.exp_avg F32 [2, 2]" in lines(training, run)


def test_the_states_of_an_optimizer_are_folded_over_the_shapes_of_their_parameters(run: Run, tmp_path: Path) -> None:
    shapes = [(4, 2), (4,), (2, 4), (2,)] * 5
    state = {number: {"step": torch.zeros(()), "avg": torch.zeros(shape)} for number, shape in enumerate(shapes)}
    state[7]["avg"] = state[7]["avg"].half()
    model = {f"layers.{number}": torch.zeros(shape) for number, shape in enumerate(shapes)}
    optimizer = {"state": state, "param_groups": [{"params": list(range(20))}]}
    torch.save({"state_dict": model, "optimizer": optimizer}, tmp_path / "training.pth")
    torch.save(optimizer, tmp_path / "optimizer.pth")
    folded = [
        "├─ 0–6 ×7", "│ ├─ step F32 []", "│ └─ avg F32 4 shapes", "├─ 7", "│ ├─ step F32 []", "│ └─ avg F16 [2]",
        "└─ 8–19 ×12", "├─ step F32 []", "└─ avg F32 4 shapes",
    ]  # fmt: skip
    page = lines(tmp_path / "training.pth", run)
    start = page.index("tensors outside of the model") + 1
    assert page[start : start + 10] == ["optimizer.state", *folded]
    assert "└─ 19 F32 [2]" in page  # a model's own are told apart
    page = lines(tmp_path / "optimizer.pth", run)
    assert page[page.index("tensors") + 1 :][:10] == ["state", *folded]


def test_calls_and_unknown_classes_are_listed_with_their_arguments(run: Run, hostile: Path) -> None:
    result = run("inspect", hostile)
    assert result.exit_code == 0
    what = f"would make 1 call ({os.system.__module__}.system); none was made here"
    assert f"would run code: loading it with pickle {what}" in result.stdout
    assert r"system('echo \x1b[31mpwned')" in result.stdout
    assert "Settings with state {'rate': 0.1}>" in result.stdout


def test_calls_that_only_make_a_value_are_told_apart(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "path": PurePosixPath("x"), "call": Call()}, tmp_path / "a.pth")
    lines = [" ".join(line.split()) for line in run("inspect", tmp_path / "a.pth").stdout.splitlines()]
    assert f"{PurePosixPath.__module__}.PurePosixPath makes a plain value" in lines
    assert any(line.endswith(".system would be called") for line in lines)


def test_a_name_that_is_handed_on_is_no_call_and_counts(run: Run, tmp_path: Path) -> None:
    """What the pickle does not call itself is not said to be called; whoever it is given to may do so."""
    torch.save({"w": torch.ones(1), "f": os.system}, tmp_path / "a.pth")
    system = f"{os.system.__module__}.system"
    page = run("inspect", tmp_path / "a.pth").stdout
    assert f"would run code: loading it with pickle may call {system}, which can run anything" in page
    assert f"elsewhere in the pickle may be called <{system}>" in " ".join(page.split())
    assert run("inspect", "--fail-on-code", tmp_path / "a.pth").exit_code == 1
    refused = run("convert", tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert refused.exit_code == 2
    assert "loading this file with pickle would run code: 1 name that can run anything" in refused.stderr
    assert not (tmp_path / "a.safetensors").exists()


def test_fail_on_code_exits_with_1_for_code_alone(run: Run, hostile: Path, model: Path) -> None:
    assert run("inspect", "--fail-on-code", hostile).exit_code == 1
    assert run("inspect", "--fail-on-code", model).exit_code == 0
    assert run("inspect", "--fail-on-code", model, hostile).exit_code == 1


def test_the_list_warns_of_code_on_stderr(run: Run, hostile: Path) -> None:
    result = run("inspect", "--list", hostile)
    assert "ckptconv: warning: " in result.stderr
    assert "warning" not in result.stdout


def test_the_list_is_one_line_for_each_tensor(run: Run, training: Path, tmp_path: Path) -> None:
    assert lines(training, run, "--list") == [
        "NAME DTYPE SHAPE BYTES",
        "weight F32 [2,2] 16",
        "optimizer.state.0.exp_avg F32 [2,2] 16 extra",
    ]
    long = "layer." * 60 + "weight"
    assert any(
        line.startswith(long + " ") for line in lines(save(tmp_path / "l.pth", {long: torch.ones(1)}), run, "--list")
    )


def test_stats_add_columns(run: Run, tmp_path: Path) -> None:
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1.0, 3.0])
    path = save(tmp_path / "m.pth", {"x": values, "flag": torch.tensor([True, False])})
    page = lines(path, run, "--stats")
    assert "DTYPE SHAPE MIN MAX MEAN STD NAN INF ZEROS" in page
    assert "x F32 [6] 0 3 1.333 1.247 1 2 1" in page
    assert "x F32 [6] 24 0 3 1.333 1.247 1 2 1" in lines(path, run, "--list", "--stats")


def test_sizes_are_those_of_all_tensors_that_a_line_stands_for(run: Run, tmp_path: Path) -> None:
    embedding = torch.zeros(100, 8)
    state = {"embed.weight": embedding, "head.weight": embedding, "head.bias": torch.zeros(100, dtype=torch.float16)}
    state |= {
        f"model.layers.{i}.heads.{j}.{name}": torch.zeros(4, 5) for i in range(6) for j in range(3) for name in "qk"
    }
    page = lines(save(tmp_path / "a.pth", state), run, "--sizes")
    assert "ELEMENTS SIZE SHARE DTYPE SHAPE" in page
    assert "embed.weight 800 3.20 kB 51.0 % F32 [100, 8]" in page
    assert "head 100 200 B 3.2 %" in page
    assert "├─ weight 0 0 B 0.0 % F32 [100, 8] = embed.weight" in page
    assert "model.layers.0–5.heads.0–2 ×6 ×3 720 2.88 kB 45.9 %" in page
    assert "├─ q 360 1.44 kB 22.9 % F32 [4, 5]" in page


def test_sizes_of_folded_states_are_their_sums(run: Run, tmp_path: Path) -> None:
    state = {i: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(i + 1, 3)} for i in range(20)}
    torch.save({"model": {"w": torch.zeros(2)}, "optimizer": {"state": state, "param_groups": []}}, tmp_path / "a.pth")
    page = lines(tmp_path / "a.pth", run, "--sizes")
    assert "optimizer.state.0–19 ×20 650 2.60 kB 100.0 %" in page
    assert "└─ exp_avg 630 2.52 kB 96.9 % F32 20 shapes" in page


def test_stats_that_json_has_no_number_for_are_spelled(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = stats.Stats(mean=float("inf"), std=float("nan"))
    monkeypatch.setattr(stats, "stats_of", lambda tensors, progress=None: [odd for _ in tensors])
    for options in ([], ["--tensor", "fc.bias"]):
        tensors = strict(run("inspect", "--stats", "--json", model, *options).stdout)["tensors"]
        assert isinstance(tensors, list)
        assert tensors[0]["stats"]["mean"] == {"$float": "7ff0000000000000"}
        assert tensors[0]["stats"]["std"] == {"$float": "7ff8000000000000"}


def test_one_tensor_shows_its_first_and_last_values(run: Run, tmp_path: Path) -> None:
    state = {"t": torch.arange(40.0).reshape(8, 5).T, "p": torch.nn.Parameter(torch.ones(2))}
    path = save(tmp_path / "m.pth", state)
    page = lines(path, run, "--tensor", "t")
    assert page[:5] == ["t", "dtype F32", "shape [5, 8]", "elements 40 (160 B)", "strides [1, 5]"]
    assert "first 8 values 0 5 10 15 20 25 30 35" in page
    assert "last 8 values 4 9 14 19 24 29 34 39" in page
    assert "kind nn.Parameter, requires_grad" in lines(path, run, "--tensor", "p")
    assert "values 1 1" in lines(path, run, "--tensor", "p")
    assert "mean 19.5" not in page
    assert "mean 19.5" in lines(path, run, "--tensor", "t", "--stats")


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 24, 1001])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_the_preview_is_what_torch_has_there(tmp_path: Path, count: int, dtype: torch.dtype) -> None:
    from ckptconv import open as open_checkpoint

    tensor = (torch.arange(count) % 5).to(dtype)
    with open_checkpoint(save(tmp_path / "m.pth", {"t": tensor})) as checkpoint:
        first, last = ends(checkpoint["t"])
    values = (tensor if dtype in {torch.int64, torch.bool, torch.complex64} else tensor.float()).tolist()
    assert (first, last) == ((values, []) if count <= 16 else (values[:8], values[-8:]))


def test_an_unknown_tensor_gets_the_nearest_names(run: Run, model: Path) -> None:
    result = run("inspect", "--tensor", "fc.wieght", model)
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error == f"ckptconv: error: {model}: there is no tensor 'fc.wieght'"
    assert hint.startswith("hint: did you mean 'fc.weight'")


def test_a_tensor_can_be_named_as_it_is_printed(run: Run, hostile: Path) -> None:
    result = run("inspect", "--tensor", r"\x1b[31mred\n.w", hostile)
    assert result.exit_code == 0
    assert result.stdout.startswith(r"\x1b[31mred\n.w" + "\n")


def test_json_of_one_tensor_has_its_values(run: Run, model: Path) -> None:
    document = strict(run("inspect", "--json", "--tensor", "fc.bias", "--stats", model).stdout)
    (tensor,) = document["tensors"]
    assert tensor["values"] == {"first": [1.0, -2.0, 0.0], "last": []}
    assert tensor["stats"]["zeros"] == 1


def test_a_digest_that_no_longer_holds_exits_with_1(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    convert(model, path)
    assert "(recorded; --digest checks it)" in run("inspect", path).stdout
    good = run("inspect", "--digest", "--stats", path)
    assert (good.exit_code, "(as recorded)" in good.stdout) == (0, True)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bad = run("inspect", "--digest", path)
    assert (bad.exit_code, "NOT AS RECORDED" in bad.stdout) == (1, True)
    assert strict(run("inspect", "--digest", "--json", path).stdout)["digest_holds"] is False
    assert "digest " in run("inspect", "--digest", "--list", path).stdout


def test_one_bad_file_among_several_does_not_hide_the_others(run: Run, model: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.pth"
    result = run("inspect", model, absent, model)
    assert result.exit_code == 2
    assert result.stdout.count("format") == 2
    assert result.stderr.startswith(f"ckptconv: error: {absent}: cannot open")
    files = strict(run("inspect", "--json", model, absent).stdout)["files"]
    assert isinstance(files, list)
    assert files[0]["format"] == "torch"
    assert files[1]["error"]["code"] == "file-access"


def test_lists_of_several_files_say_which_is_which(run: Run, model: Path, training: Path) -> None:
    text = run("inspect", "--list", model, training).stdout
    assert [line for line in text.splitlines() if line.endswith(":")] == [f"{model}:", f"{training}:"]


def test_json_has_the_documented_keys(run: Run, hostile: Path) -> None:
    document = strict(run("inspect", "--json", hostile).stdout)
    assert document["verdict"] == "would run code"
    wanted = {"path", "format", "tensors", "metadata", "notes", "parameters", "nbytes", "verdict", "opaque", "globals"}
    assert wanted <= document.keys()


@pytest.mark.parametrize("options", [["--tree", "--list"], ["--list", "--tensor", "fc.bias"]])
def test_views_exclude_each_other(run: Run, model: Path, options: list[str]) -> None:
    result = run("inspect", model, *options)
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_a_note_about_the_only_tensor_names_it(run: Run, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"e": torch.ones(3).expand(4, 3)})
    assert "not contiguous 1 tensor: e" in lines(path, run)


def test_a_quantized_model_has_the_parameters_that_it_stands_for(tmp_path: Path, run: Run) -> None:
    weight = {"fc.weight": torch.ones(4, 8).to(torch.float8_e4m3fn), "fc.weight_scale": torch.ones(4, 1)}
    save_file(weight, tmp_path / "rows.safetensors")
    shown = run("inspect", tmp_path / "rows.safetensors").output
    assert "32 parameters" in shown
    assert "8-bit floats or integers with scales ×1; convert --dequantize makes plain weights" in shown
    save_file({**weight, "fc.weight_scale": torch.ones(3, 3)}, tmp_path / "odd.safetensors")
    shown = run("inspect", tmp_path / "odd.safetensors").output
    assert "41 parameters" in shown
    assert "8-bit floats or integers with scales ×1; counted as they are stored" in shown


@pytest.mark.parametrize("name", [".", "./", "..", "../here"])
def test_a_folder_is_the_same_by_its_relative_names(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / ("in" if name == ".." else ""))
    empty = run("inspect", name)
    assert (empty.exit_code, "this folder is not a checkpoint" in empty.stderr) == (2, True), empty.output
    save_file({"w": torch.ones(2)}, tmp_path / "here" / "model.safetensors")
    done = run("inspect", name)
    assert done.exit_code == 0, done.output
    assert run("diff", name, name).exit_code == 0
    assert run("convert", name, tmp_path / "out.pth").exit_code == 0


def test_a_lone_object_is_shown_with_what_it_holds(run: Run, tmp_path: Path) -> None:
    """As a trainer's arguments are."""
    torch.save(argparse.Namespace(lr=0.1, steps=4, resume=None), tmp_path / "args.bin")
    output = run("inspect", tmp_path / "args.bin").output
    assert "what the object holds\n  lr     0.1\n  steps  4\n" in output
    torch.save({"args": argparse.Namespace(lr=0.1), "w": torch.ones(2)}, tmp_path / "a.pth")
    assert "what the object holds" not in run("inspect", tmp_path / "a.pth").output


def test_a_tie_of_long_names_fits_on_a_line(run: Run, tmp_path: Path) -> None:
    """Lightning's callbacks have their settings in their names."""
    callback = f"ModelCheckpoint{{'monitor': 'loss', 'every_n_train_steps': {10**60}}}"
    shared = torch.tensor(0.5)
    torch.save({"state_dict": {"w": torch.ones(2)}, callback: {"best": shared, "current": shared}}, tmp_path / "a.pth")
    (line,) = (one for one in run("inspect", tmp_path / "a.pth").output.splitlines() if one.strip().startswith("ties"))
    assert len(line) < 200
    assert "ModelCheckpoint{" in line and ".best" in line and line.endswith(".current")


def test_of_a_tie_of_many_names_the_first_are_listed(run: Run, tmp_path: Path) -> None:
    shared = torch.ones(2)
    torch.save({f"w{i:02}": shared for i in range(30)}, tmp_path / "a.pth")
    (line,) = (one for one in run("inspect", tmp_path / "a.pth").output.splitlines() if one.strip().startswith("ties"))
    assert line.split("  ")[-1].strip() == " = ".join([*(f"w{i:02}" for i in range(8)), "22 more"])
