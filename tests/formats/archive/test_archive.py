"""Archives with a checkpoint in them: the one that is meant, whatever its format, and the others by name."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ckptconv
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    DamagedTensorError,
    FileAccessError,
    LimitError,
    UnknownFormatError,
    UnsupportedError,
    UsageError,
)
from ckptconv.formats.archive import read as archive_reader
from tests.cli.conftest import run as run  # the fixture
from tests.cli.conftest import strict
from tests.support.archive_files import mar, saved_bytes, state, tarred, zipped
from tests.support.nodes import image
from tests.support.reads import bytes_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from tests.cli.conftest import Run

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
HOW: dict[str, Any] = {"a.zip": zipfile.ZIP_STORED, "b.zip": zipfile.ZIP_DEFLATED, "c.tar": "w:", "d.tar.gz": "w:gz"}


def packed(path: Path, members: Mapping[str, bytes]) -> Path:
    how = HOW[path.name]
    return tarred(path, members, how) if isinstance(how, str) else zipped(path, members, how)


def assert_state(checkpoint: Checkpoint) -> None:
    assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {
        name: image(tensor) for name, tensor in state().items()
    }


def safetensors_bytes(folder: Path) -> bytes:
    save_file(state(), folder / "x.safetensors")
    return (folder / "x.safetensors").read_bytes()


@pytest.mark.parametrize("name", HOW)
def test_the_one_checkpoint_in_it_is_read(name: str, tmp_path: Path) -> None:
    config = '{"a": 1}'
    members = {"top/model.pth": saved_bytes(state()), "top/config.json": config.encode(), "top/run.py": b"print()"}
    with ckptconv.open(packed(tmp_path / name, members)) as checkpoint:
        assert_state(checkpoint)
        assert (checkpoint.format, checkpoint.metadata) == ("archive", {"top/config.json": config})
        assert [(one.name, one.use) for one in checkpoint.notes.members] == [
            ("top/model.pth", "model"), ("top/config.json", "metadata"), ("top/run.py", ""),
        ]  # fmt: skip
        said = [finding.message for finding in checkpoint.findings]
        assert said[1:] == ["1 member of the archive stays behind: 'top/run.py'"]
        assert ("inflated" in said[0]) is (name in ("b.zip", "d.tar.gz"))


@pytest.mark.parametrize("name", HOW)
def test_it_converts_to_what_the_file_in_it_converts_to(name: str, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "model.pth")
    packed(tmp_path / name, {"model.pth": (tmp_path / "model.pth").read_bytes()})
    ckptconv.convert(tmp_path / name, tmp_path / "one.safetensors", bare=True)
    ckptconv.convert(tmp_path / "model.pth", tmp_path / "two.safetensors", bare=True)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert ckptconv.diff(tmp_path / name, tmp_path / "model.pth").equal


def test_metadata_of_the_file_and_texts_beside_it_are_both_kept(tmp_path: Path) -> None:
    value = {"epoch": 3, "config.json": 5, "state_dict": state()}
    path = zipped(tmp_path / "x.zip", {"m.pth": saved_bytes(value), "config.json": b"{}", "notes.txt": "é".encode()})
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.metadata == {"epoch": 3, "config.json": 5, "config.json_": "{}", "notes.txt": "é"}
    ckptconv.convert(path, tmp_path / "x.pth")
    found = torch.load(tmp_path / "x.pth")
    assert {key for key in found if key != "state_dict"} == {"epoch", "config.json", "config.json_", "notes.txt"}


def test_texts_that_are_long_or_none_stay_behind(tmp_path: Path) -> None:
    members = {"m.pth": saved_bytes(state()), "tokenizer.json": b" " * (1 << 20) + b"1", "latin.txt": b"\xe9"}
    with ckptconv.open(zipped(tmp_path / "x.zip", members)) as checkpoint:
        assert checkpoint.metadata == {}
        assert "'tokenizer.json', 'latin.txt'" in checkpoint.findings[-1].message


FORMATS = ["keras-3.keras", "keras-bert.h5", "flax-bert.msgpack", "tflite-float.tflite", "llama-2-whole.pth"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["a.zip", "d.tar.gz"])
def test_files_of_any_format_are_read_in_it(name: str, how: str, tmp_path: Path) -> None:
    path = packed(tmp_path / how, {f"a/{name}": (OTHERS / name).read_bytes()})
    assert ckptconv.diff(path, OTHERS / name).equal
    assert ckptconv.inspect(path).verdict == ckptconv.inspect(OTHERS / name).verdict


def test_an_npz_and_a_pickle_are_read_in_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.arange(3.0))
    path = zipped(tmp_path / "x.zip", {"d/x.npz": (tmp_path / "x.npz").read_bytes()})
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", HOW)
def test_checkpoints_of_several_files_are_read_in_it(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    torch.save({f"l{i}": torch.full((64,), float(i)) for i in range(6)}, tmp_path / "x.pth")
    ckptconv.convert(tmp_path / "x.pth", folder, to_format="safetensors", shard_size="1KB")
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "dcp", to_format="torch-dcp")
    assert len(list(folder.iterdir())) > 2
    for source in (folder, tmp_path / "dcp"):
        members = {f"top/{path.name}": path.read_bytes() for path in source.iterdir()}
        packed(tmp_path / how, {**members, "top/tokenizer.model": b"x"})
        assert ckptconv.diff(tmp_path / how, tmp_path / "x.pth").equal
        assert ckptconv.diff(tmp_path / how / "top", tmp_path / "x.pth").equal
        with ckptconv.open(tmp_path / how) as checkpoint:
            assert {one.name for one in checkpoint.notes.members if one.use == "model"} == set(members)
            assert [one.name for one in checkpoint.notes.members if not one.use] == ["top/tokenizer.model"]
    index = tmp_path / how / "top" / "model.safetensors.index.json"
    packed(tmp_path / how, {f"top/{path.name}": path.read_bytes() for path in folder.iterdir()})
    assert ckptconv.diff(index, tmp_path / "x.pth").equal


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    torch.save({f"l{i}": torch.full((64,), float(i)) for i in range(6)}, tmp_path / "x.pth")
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "parts", to_format="safetensors", shard_size="1KB")
    files = sorted((tmp_path / "parts").iterdir())
    zipped(tmp_path / "x.zip", {path.name: path.read_bytes() for path in files[1:]})
    with pytest.raises(CorruptFileError, match=f"missing: '{files[0].name}'"):
        ckptconv.open(tmp_path / "x.zip")


def test_a_snapshot_of_the_hub_is_its_one_file_of_weights(tmp_path: Path) -> None:
    members = {"model.safetensors": safetensors_bytes(tmp_path), "config.json": b"{}", "training_args.bin": b"x"}
    with ckptconv.open(zipped(tmp_path / "x.zip", members)) as checkpoint:
        assert_state(checkpoint)
        assert checkpoint.findings[0].message == "'model.safetensors' is read, as safetensors"
        assert checkpoint.metadata == {"config.json": "{}"}


def test_a_folder_of_tensorflow_is_read_in_it(tmp_path: Path) -> None:
    files = [path for path in OTHERS.iterdir() if path.name.startswith("tensorflow-shards.ckpt")]
    path = zipped(tmp_path / "x.zip", {f"variables/{one.name}": one.read_bytes() for one in files})
    assert ckptconv.diff(path, OTHERS / "tensorflow-shards.ckpt.index").equal


def test_one_of_several_is_named_as_if_the_archive_were_a_folder(tmp_path: Path, run: Run) -> None:
    members = {"a.pth": saved_bytes({"w": torch.zeros(2)}), "d/b.pth": saved_bytes(state()), "c.txt": b"x"}
    path = zipped(tmp_path / "x.zip", members)
    with pytest.raises(UsageError) as error:
        ckptconv.open(path)
    assert error.value.details == ("a.pth", "d/b.pth")
    assert str(path / "a.pth") in str(error.value.hint)
    with ckptconv.open(path / "d" / "b.pth") as checkpoint:
        assert_state(checkpoint)
        assert (checkpoint.format, checkpoint.notes.members) == ("torch", ())
    assert run("inspect", str(path / "a.pth")).exit_code == 0
    assert run("convert", str(path / "d/b.pth"), str(tmp_path / "out.safetensors")).exit_code == 0
    assert run("diff", str(path / "d/b.pth"), str(tmp_path / "out.safetensors")).exit_code == 0
    result = run("inspect", str(path), "--list")
    assert (result.exit_code, "  d/b.pth\n" in result.stderr) == (2, True)
    result = run("inspect", str(path))
    said = "warning: there are 2 checkpoints in this archive: a.pth, d/b.pth\n"
    assert (result.exit_code, said in result.stdout) == (0, True)


def test_a_name_that_is_not_in_it_is_reported_with_those_that_are(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.pth": saved_bytes(state())})
    with pytest.raises(FileAccessError, match=r"there is no 'b\.pth' in this archive; in it: 'a\.pth'") as error:
        ckptconv.open(path / "b.pth")
    assert error.value.path == path
    (tmp_path / "x.txt").write_text("no archive")
    with pytest.raises(UnsupportedError, match="not an archive"):
        ckptconv.open(tmp_path / "x.txt" / "b.pth")
    with pytest.raises(FileAccessError, match="no such file"):
        ckptconv.open(tmp_path / "none.zip" / "b.pth")


def test_a_checkpoint_without_a_telling_name_is_known_by_its_bytes(tmp_path: Path) -> None:
    model = (OTHERS / "tflite-float.tflite").read_bytes()  # as the tasks of MediaPipe's that hold language models
    path = zipped(
        tmp_path / "x.task", {"TF_LITE_PREFILL_DECODE": model, "TOKENIZER_MODEL": b"\x0a\x0b", "METADATA": b""}
    )
    assert ckptconv.diff(path, OTHERS / "tflite-float.tflite").equal


def test_a_task_of_several_models_lists_them(tmp_path: Path) -> None:
    model = (OTHERS / "tflite-float.tflite").read_bytes()
    path = zipped(tmp_path / "face.task", {"face_detector.tflite": model, "face_landmarks_detector.tflite": model})
    with pytest.raises(UsageError, match="2 checkpoints"):
        ckptconv.open(path)
    assert ckptconv.diff(path / "face_detector.tflite", OTHERS / "tflite-float.tflite").equal


def test_archives_in_it_are_named_and_not_opened(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "x.zip", {"m.pth": saved_bytes(state())}).read_bytes()
    path = zipped(tmp_path / "y.zip", {"x.zip": inner, "a.txt": b"x"})
    with pytest.raises(UnknownFormatError, match=r"another archive: 'x\.zip'"):
        ckptconv.open(path)
    with pytest.raises(UnsupportedError, match="archive in an archive"):
        ckptconv.open(path / "x.zip")
    with pytest.raises(FileAccessError, match=r"no 'x\.zip/m\.pth' in this archive"):
        ckptconv.open(path / "x.zip" / "m.pth")


@pytest.mark.parametrize("how", HOW)
def test_an_archive_without_a_checkpoint_says_what_is_in_it(how: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match=r"called as a checkpoint is: 'a\.txt'"):
        ckptconv.open(packed(tmp_path / how, {"a.txt": b"x"}))


def test_an_archive_with_nothing_in_it_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="nothing in"):
        ckptconv.open(zipped(tmp_path / "a.zip", {"__MACOSX/._x": b""}))


def test_a_file_that_is_no_checkpoint_is_reported_with_its_path(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"d/m.pth": b"hello" * 9})
    with pytest.raises(UnknownFormatError) as error:
        ckptconv.open(path)
    assert error.value.path == path / "d/m.pth"


def test_a_compressed_file_alone_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors.gz").write_bytes(gzip.compress(safetensors_bytes(tmp_path)))
    with ckptconv.open(tmp_path / "m.safetensors.gz") as checkpoint:
        assert_state(checkpoint)


@pytest.mark.parametrize("how", ["a.zip", "b.zip"])
def test_a_member_whose_checksum_fails_is_named_by_its_tensor(how: str, tmp_path: Path) -> None:
    data = safetensors_bytes(tmp_path)
    path = packed(tmp_path / how, {"m.safetensors": data})
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        crc = file.getinfo("m.safetensors").CRC.to_bytes(4, "little")
    for at in (whole.find(crc), whole.rfind(crc)):
        whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedTensorError):
        ckptconv.convert(path, tmp_path / "out.safetensors")


def test_opening_reads_no_tensor_of_what_is_stored(tmp_path: Path) -> None:
    big = {"w": torch.zeros(1 << 20)}
    for how, members in (("a.zip", {"m.pth": saved_bytes(big)}), ("c.tar", {"m.pth": saved_bytes(big)})):
        with ckptconv.open(packed(tmp_path / how, members)) as checkpoint:
            assert bytes_read(checkpoint) < 200_000
            span = checkpoint["w"].span
            assert span is not None
            assert span.file.place(span.offset) is not None  # type: ignore[attr-defined]


def test_bombs_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("m.pth", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(LimitError, match="inflates to 314,572,800 bytes"):
        ckptconv.open(path)


def test_inspect_lists_the_members(tmp_path: Path, run: Run) -> None:
    path = zipped(tmp_path / "x.zip", {"m.pth": saved_bytes(state()), "config.json": b"{}", "z.bin.txt.png": b"123"})
    lines = run("inspect", str(path)).stdout.splitlines()
    start = lines.index("members of the archive")
    assert [line.split() for line in lines[start + 2 : start + 4]] == [
        ["config.json", "2", "B", "metadata"], ["z.bin.txt.png", "3", "B", "left", "there"],
    ]  # fmt: skip
    assert strict(run("inspect", "--json", str(path)).stdout)["notes"]["members"][1] == {
        "name": "config.json", "nbytes": 2, "use": "metadata",
    }  # fmt: skip


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_mar_of_torchserve_is_the_file_that_its_manifest_names(method: int, tmp_path: Path) -> None:
    path = mar(tmp_path / "x.mar", method)
    with ckptconv.open(path) as checkpoint:
        assert_state(checkpoint)
        assert json.loads(str(checkpoint.metadata["MAR-INF/MANIFEST.json"]))["runtime"] == "python"
        assert checkpoint.metadata["index_to_name.json"] == '{"0": "cat"}'
    assert ckptconv.inspect(path).verdict == "plain"  # the handler is TorchServe's own


def test_a_tar_gz_of_torchserves_archiver_is_what_its_mar_is(tmp_path: Path) -> None:
    """``--archive-format tgz`` puts all into a folder that is called as the model."""
    with zipfile.ZipFile(mar(tmp_path / "x.mar", handler="handler.py")) as archive:
        members = {f"net/{name}": archive.read(name) for name in archive.namelist()}
    path = tarred(tmp_path / "net.tar.gz", {"net/other.pt": saved_bytes({}), **members}, "w:gz")
    with ckptconv.open(path) as checkpoint:
        assert_state(checkpoint)
    found = ckptconv.inspect(path)
    assert [(use.where, use.node.name) for use in found.opaque] == [
        ("net/MAR-INF/MANIFEST.json: model.handler", "handler.py")
    ]
    assert found.verdict == "would run code"


@pytest.mark.parametrize("said", [{"handler": "handler.py"}, {"handler": "handler:entry"}, {"modelFile": "handler.py"}])
def test_python_in_a_mar_would_run(said: dict[str, Any], tmp_path: Path, run: Run) -> None:
    path = mar(tmp_path / "x.mar", **said)
    found = ckptconv.inspect(path)
    assert (found.verdict, found.opaque[0].node.name) == ("would run code", "handler.py")
    assert "loading it with TorchServe" in run("inspect", str(path)).stdout
    assert run("inspect", "--fail-on-code", str(path)).exit_code == 1


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ({"serializedFile": "none.pt"}, CorruptFileError),
        ({"serializedFile": "../net.pt"}, CorruptFileError),
        ({"serializedFile": ""}, UnsupportedError),
    ],
)
def test_a_manifest_that_names_no_member_is_refused(
    manifest: dict[str, Any], error: type[CkptconvError], tmp_path: Path
) -> None:
    with pytest.raises(error, match="MANIFEST"):
        ckptconv.open(mar(tmp_path / "x.mar", **manifest))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"model": []}', b"[" * 100_000])
def test_an_invalid_manifest_is_refused(text: bytes, tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.mar", {"net.pt": saved_bytes(state()), "MAR-INF/MANIFEST.json": text})
    with pytest.raises(CorruptFileError, match="none of TorchServe's"):
        ckptconv.open(path)


def test_many_files_of_which_none_is_named_so_are_not_all_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_reader, "MAX_EXAMINED", 2)
    path = zipped(tmp_path / "x.zip", {"a": b"1", "b": b"2", "c": saved_bytes(state())})
    with pytest.raises(UnknownFormatError, match="no file in this archive"):
        ckptconv.open(path)


def test_a_file_is_changed_while_it_is_open(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"m.pth": saved_bytes(state())})
    with ckptconv.open(path) as checkpoint:
        shutil.copystat(__file__, path)
        with pytest.raises(CkptconvError, match="written to"):
            checkpoint.check_unchanged()
    with ckptconv.open(path / "m.pth") as checkpoint:
        path.touch()
        with pytest.raises(CkptconvError, match="written to"):
            checkpoint.check_unchanged()


def test_a_compressed_file_whose_name_says_nothing_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "5f3c"
    path.write_bytes(gzip.compress(saved_bytes(state())))
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == list(state())


def test_a_llamafile_is_the_model_at_its_end(tmp_path: Path) -> None:
    """Its zip archive counts from the program's first byte; the model in it is stored."""
    model = tmp_path / "model.gguf"
    ckptconv.convert(OTHERS / "tflite-float.tflite", model)
    path = tmp_path / "x.llamafile"
    path.write_bytes(b"MZqFpD='\n" + bytes(5000))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(".args", "-m\nmodel.gguf\n")
        archive.writestr("usr/share/zoneinfo/UTC", b"TZif", zipfile.ZIP_DEFLATED)
        archive.write(model, "model.gguf")
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "archive"
        assert next(iter(checkpoint.values())).span is not None
        assert [one.code for one in checkpoint.findings][:2] == ["program", "member"]
    assert ckptconv.diff(path, model).equal
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CkptconvError):
        ckptconv.open(path)
