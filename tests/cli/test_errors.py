"""How the program ends: one line for an error, a hint, an exit code, whatever went wrong."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import onnx
import pytest
import torch

from ckptconv.api import inspect as api
from tests.support.craft import saved

from .conftest import Run, strict

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["arch", "shw"], "there is no command 'shw'", "did you mean 'show'?"),
        (["arch", "show"], "missing argument 'NAME'", "'ckptconv arch show --help' shows how it is used"),
        (["validate", "--set", "x", "a"], "invalid value for '--set': 'x' is not of the form K=V",
         "'ckptconv validate --help' shows how it is used"),
        (["validate", "--set", "x=1", "--set", "x=2", "a"], "--set sets the same param twice",
         "'ckptconv validate --help' shows how it is used"),
        (["convert", "--set", "x=1", "a", "b"], "--set needs --arch or --with-params",
         "'ckptconv convert --help' shows how it is used"),
        (["convrt"], "there is no command 'convrt'", "did you mean 'convert'?"),
        (["formats", "pth"], "there is no format 'pth'", "did you mean 'torch'?"),
        (["inspect", "*.ckpt"], "*.ckpt: cannot open: no such file or directory",
         "no file matches this pattern: check the folder and the suffix"),
        (["inspect", "nowhere/a.pth"], "nowhere/a.pth: cannot open: no such file or directory",
         "there is no folder 'nowhere'"),
        (["inspect", "Qwen/Qwen2.5-7B"], "Qwen/Qwen2.5-7B: cannot open: no such file or directory",
         "there is no folder 'Qwen'; a model of the Hugging Face hub is fetched by: hf download Qwen/Qwen2.5-7B"),
        (["--verison"], "there is no option '--verison'", "did you mean --version?"),
        (["-x", "inspect", "a"], "there is no option '-x'", "'ckptconv --help' shows how it is used"),
        (["help", "convrt"], "there is no command 'convrt'", "did you mean 'convert'?"),
        (["convert", "a", "b", "c"], "got unexpected extra argument (c)",
         'one SRC and one DST; for many: for f in *.pth; do ckptconv convert "$f" "${f%.pth}.safetensors"; done'),
        (["convert", "--forse", "a", "b"], "there is no option '--forse'", "did you mean --force?"),
        (["inspect", "-x.pth"], "there is no option '-x'",
         "'ckptconv inspect --help' shows how it is used; a file called -x… is given as ./-x…"),
        (["convert", "a"], "missing argument 'DST'", "'ckptconv convert --help' shows how it is used"),
        (["inspect"], "missing argument 'SRC...'", "'ckptconv inspect --help' shows how it is used"),
        (["formats", "a", "b"], "got unexpected extra argument (b)", "'ckptconv formats --help' shows how it is used"),
    ],
)  # fmt: skip
def test_a_usage_error_is_a_line_and_a_hint(run: Run, arguments: list[str], message: str, hint: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"ckptconv: error: {message}\nhint: {hint}\n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["convert", "FILE", "b.safetensor"], "no format is known for the name 'b.safetensor'",
         "did you mean 'b.safetensors'?"),
        (["convert", "FILE", "b.foo"], "no format is known for the name 'b.foo'",
         "use --to FORMAT, or one of the suffixes .pth .pt .bin .ckpt .safetensors .onnx .gguf .npz .h5 .hdf5 .keras "
         ".msgpack .npy"),
        (["convert", "FILE", "half"], "no format is known for the name 'half'",
         "half/ makes a folder with model.safetensors in it; else use --to FORMAT, or one of the suffixes "
         ".pth .pt .bin .ckpt .safetensors .onnx .gguf .npz .h5 .hdf5 .keras .msgpack .npy"),
        (["convert", "FILE", "b.gguf", "--translate", "to-ggfu"], "--translate 'to-ggfu': there is no such dialect",
         "did you mean 'to-gguf'?"),
        (["convert", "FILE", "no/such folder/b.pth"], "no/such folder/b.pth: the target's folder does not exist",
         "mkdir -p 'no/such folder'"),
        (["convert", "FILE", "s3://bucket/b.pth"], "s3://bucket/b.pth: this is not a file",
         "write a file first: nothing is uploaded here"),
        (["convert", "FILE", "b" * 300 + ".pth"], "b" * 300 + ".pth: cannot write: file name too long",
         "give it a shorter name"),
        (["validate", "FILE", "--arch", "models.py"], "'models.py' does not say which class of it is meant",
         "name it: models.py:CLASS"),
        (["convert", "FILE", "b.onnx", "--arch", "mlp", "--input", "x:F32[N,4]"],
         "inputs are for Python that a graph is made of", "--input goes with --arch FILE.py:CLASS"),
        (["inspect", "FILE", "--tensor", "a.bias"], "FILE: there is no tensor 'a.bias'", "--list shows the names"),
    ],
)  # fmt: skip
def test_what_is_asked_of_a_file_is_refused_with_what_to_type(
    run: Run, tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    path = saved(tmp_path / "m.pth", {"w": torch.ones(2)})
    result = run(*(str(path) if word == "FILE" else word for word in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"ckptconv: error: {message.replace('FILE', str(path))}\nhint: {hint}\n"


def test_a_source_and_a_target_that_changed_places_are_told_apart(run: Run, tmp_path: Path) -> None:
    path, absent = saved(tmp_path / "m.pth", {"w": torch.ones(2)}), tmp_path / "out.safetensors"
    result = run("convert", absent, path)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"\nhint: the source comes first: ckptconv convert {path} {absent}\n")
    hint = run("convert", absent, tmp_path / "b.pth").stderr.splitlines()[-1]
    assert hint == "hint: check the path", "neither is there"
    (tmp_path / "nf.safetensors").touch()
    assert "did you mean" not in run("inspect", absent).stderr, "a suffix in common is not likeness"
    (tmp_path / "our.safetensors").touch()
    assert run("convert", absent, path).stderr.endswith(f"hint: did you mean '{tmp_path / 'our.safetensors'}'?\n")


def test_the_weights_of_a_graph_name_the_graph(run: Run, tmp_path: Path) -> None:
    for name in ("m.onnx.data", "m.onnx_data", "m.onnx_data_1"):
        (tmp_path / name).write_bytes(b"\x17\x23" * 50)
        assert "hint: check that the download is complete" in run("inspect", tmp_path / name).stderr
    (tmp_path / "m.onnx").touch()
    for name in ("m.onnx.data", "m.onnx_data", "m.onnx_data_1"):
        assert run("inspect", tmp_path / name).stderr == (
            f"ckptconv: error: {tmp_path / name}: these are weights that an ONNX graph keeps outside of itself\n"
            f"hint: name the graph: {tmp_path / 'm.onnx'}\n"
        )


def test_the_command_in_a_hint_asks_for_all_that_was_asked_for(run: Run, tmp_path: Path) -> None:
    state = {
        f"{layer}.{part}": torch.ones(shape) for layer in (0, 2) for part, shape in (("weight", (4, 4)), ("bias", 4))
    }
    path = saved(tmp_path / "my model.pth", {"state_dict": {f"net.{name}": one for name, one in state.items()}})
    asked = (
        "--from torch --to onnx --force --bare --meta 'note=a b' --meta 'number=\"1\"' --meta 'sizes=[1, 2]' "
        "--allow-loss dtype -O opset=18 --strip-prefix net. --dtype F16"
    )
    first = run("convert", path, tmp_path / "graph", *shlex.split(asked))
    (hint,) = [line for line in first.stderr.splitlines() if line.startswith("hint: ")]
    typed = shlex.split(hint.removeprefix("hint: "))
    assert typed[:4] == ["ckptconv", "convert", str(path), str(tmp_path / "graph")]
    assert " ".join(map(shlex.quote, typed[4:])).startswith(asked)
    assert run(*typed[1:]).exit_code == 0
    graph = onnx.load(tmp_path / "graph")
    assert graph.opset_import[0].version == 18
    assert {one.data_type for one in graph.graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_an_option_of_every_command_before_the_command_gets_a_hint_where_it_goes(run: Run) -> None:
    result = run("--json", "inspect", "a")
    assert result.exit_code == 2
    assert strict(result.stdout)["error"]["hint"] == "it comes after the command: 'ckptconv COMMAND --json'"


def test_a_file_where_a_command_belongs_is_reported_as_such(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    result = run(tmp_path / "a.pth")
    assert result.exit_code == 2
    assert "hint: a command comes before the file; the commands are convert, inspect, " in result.stderr


def test_a_path_that_was_mistyped_is_reported_with_the_nearest_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()
    assert run("inspect", tmp_path / "modle.pth").stderr.endswith(f"hint: did you mean '{tmp_path / 'model.pth'}'?\n")
    assert run("inspect", tmp_path / "other.onnx").stderr.endswith("hint: check the path\n")


def test_a_format_that_was_asked_for_and_is_another_is_reported(run: Run, tmp_path: Path) -> None:
    result = run("convert", "fixtures/digits-raw.pth", tmp_path / "a.npz", "--from", "safetensors")
    assert result.stderr.endswith(
        "hint: it was read as 'safetensors', which was asked for; its bytes are those of 'torch'\n"
    )


def test_a_usage_error_is_reported_in_json_too(run: Run) -> None:
    error = strict(run("convert", "--json", "--forse").stdout)["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["hint"]) == ("usage", "did you mean --force?")


@pytest.mark.parametrize("content", [b"", b"GGUF1234", b"\x80\x04.", b"PK\x03\x04", b"nonsense"])
def test_a_file_that_is_no_checkpoint_is_a_line_and_a_hint(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    for arguments in (["inspect", path], ["convert", path, tmp_path / "out.safetensors"]):
        result = run(*arguments)
        assert result.exit_code == 2
        error, hint = result.stderr.splitlines()
        assert error.startswith(f"ckptconv: error: {path}: ")
        assert hint.startswith("hint: ")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ZeroDivisionError("by \x1b[31mzero\n"), r"this is a bug in ckptconv: ZeroDivisionError: by \x1b[31mzero\n"),
        (RecursionError("too deep"), "this is a bug in ckptconv: RecursionError: too deep"),
        (RuntimeError("can't start new thread"), "the system starts no further thread"),
        (MemoryError(), "there is not enough memory for this"),
        (OSError(24, "Too many open files"), "too many open files"),
    ],
)
def test_an_unexpected_error_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "inspect", fail)
    result = run("inspect", "file")
    line, hint = result.stderr.splitlines()
    assert (result.exit_code, line) == (2, f"ckptconv: error: {wanted}")
    assert hint.startswith("hint: ")


def test_debug_shows_the_traceback_with_nothing_raw_in_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by \x1b[31mzero")

    monkeypatch.setattr(api, "inspect", fail)
    result = run("inspect", "file", "--debug")
    assert "Traceback (most recent call last)" in result.stderr
    assert "\x1b" not in result.stderr
    assert result.stderr.splitlines()[-2].startswith("ckptconv: error: this is a bug")


def test_no_traceback_without_debug(run: Run, tmp_path: Path) -> None:
    assert "Traceback" not in run("inspect", tmp_path).stderr
    shown = run("inspect", tmp_path, "--debug").stderr
    assert "Traceback" in shown
    assert shown.count("hint: ") == 1


def test_nothing_raw_from_a_file_reaches_the_terminal(run: Run, hostile: Path, tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mname\n\u202e.pth"
    hostile.rename(path)
    for arguments in (
        ["inspect", path],
        ["inspect", "--list", "--stats", path],
        ["inspect", "--tensor", "\x1b[31mred\n.w", path],
        ["inspect", "--tensor", "\x1b[31mnone", path],
        ["inspect", "--json", path],
        ["convert", path, tmp_path / "\x1b.safetensors"],
        ["convert", path, tmp_path / "\x1b.safetensors", "--dry-run"],
        ["convert", path, tmp_path / "\x1b.safetensors", "--allow-loss", "all"],
        ["convert", path, path],
        ["validate", path],
        ["validate", path, path, "--json"],
        ["validate", path, "--arch", "mlp"],
        ["validate", path, "--arch", path],
        ["validate", path, "--arch", "mlp", "--values"],
        ["validate", path, "--arch", "\x1b[31m"],
        ["validate", path, "--arch", "mlp", "--set", "\x1b=1"],
        ["convert", path, tmp_path / "\x1b.pth", "--arch", "mlp", "--bare"],
        ["arch", "infer", path],
        ["arch", "show", "\x1b[31m"],
        ["arch", "\x1b[31m"],
        ["inspect", "\x1b[31m"],
        ["\x1b[31m"],
        ["convert", "--\x1b[31m"],
        ["formats", "\x1b[31m"],
    ):
        result = run(*arguments)
        text = result.stdout + result.stderr
        assert text
        assert all(line.isprintable() for line in text.splitlines()), arguments


def test_markup_in_a_name_is_text(run: Run, hostile: Path) -> None:
    assert "[red]markup[/red]" in run("inspect", hostile).stdout
