"""Folders that are parts of a model go where it goes, from archives as well: what is a part, what is told, refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

import ckptconv
from ckptconv.errors import CorruptFileError, FileAccessError, LimitError, TargetExistsError, UnsafeError
from tests.support.systems import without_unnamed_files

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
]
"""As sentence-transformers 6.2 writes it, which needs no folder of its own for the last."""

DENSE = {"linear.weight": torch.ones(2, 4), "linear.bias": torch.zeros(2)}


def sentences(home: Path, modules: object = MODULES) -> Path:
    """A folder of sentence-transformers', with a module that has weights, and with what is none of it."""
    files: dict[str, bytes] = {
        "model.safetensors": save({"w": torch.arange(4.0)}), "config.json": b'{"dtype": "float32"}',
        "modules.json": json.dumps(modules).encode(), "README.md": b"# hi",
        "1_Pooling/config.json": b'{"word_embedding_dimension": 4}', "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": save(DENSE), "2_Dense/code.py": b"x = 1", "2_Dense/x/y/config.json": b"{}",
        "additional_chat_templates/tool.jinja": b"{{ x }}", "onnx/model.onnx": b"no part", "onnx/config.json": b"{}",
    }  # fmt: skip
    for name, data in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    return home


def contents(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}


GO = (
    "config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
    "2_Dense/x/y/config.json", "additional_chat_templates/tool.jinja",
)  # fmt: skip


def carried(source: Path, target: Path, **options: object) -> list[tuple[str, str, str]]:
    """Convert; gives the findings on what went along, and what did not."""
    result = ckptconv.convert(source, f"{target}/", with_files=True, **options)  # type: ignore[arg-type]
    assert sorted(result.files) == sorted(target / name for name in contents(target) if name != "model.safetensors")
    codes = ("copied-weights", "not-copied", "members")
    return [(one.code, one.severity, one.message) for one in result.findings if one.code in codes]


def test_modules_and_templates_go_along_and_the_rest_is_reported(tmp_path: Path) -> None:
    source = sentences(tmp_path / "a")
    told = carried(source, tmp_path / "b")
    before, after = contents(source), contents(tmp_path / "b")
    assert {name: before[name] for name in GO} == {n: data for n, data in after.items() if n != "model.safetensors"}
    assert told == [
        ("copied-weights", "info", "weights of other parts are copied as they are: 2_Dense/model.safetensors"),
        ("not-copied", "info", "not copied, since nothing says that they are the model's: 2_Dense/code.py, onnx/"),
    ]


def test_the_classifier_of_setfit_goes_along_and_none_that_would_run_code(tmp_path: Path) -> None:
    """Without its model_head.pkl, SetFit makes one at random."""
    source = sentences(tmp_path / "a")
    (source / "model_head.pkl").write_bytes(pickle.dumps({"coef_": 1}))
    carried(source, tmp_path / "other")
    assert "model_head.pkl" not in contents(tmp_path / "other")  # nothing says that it is the model's
    (source / "config_setfit.json").write_text("{}")
    carried(source, tmp_path / "b")
    assert contents(tmp_path / "b")["model_head.pkl"] == (source / "model_head.pkl").read_bytes()
    (source / "model_head.pkl").write_bytes(b"cos\nsystem\n(Vfalse\ntR.")
    with pytest.raises(UnsafeError, match="system"):
        carried(source, tmp_path / "c")


@pytest.mark.parametrize("how", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("named", ["all", "folder", "file"])
def test_from_an_archive_the_same_goes_along(how: str, named: str, tmp_path: Path) -> None:
    source = sentences(tmp_path / "in" / "st")
    packed = Path(shutil.make_archive(f"{tmp_path}/st", how, tmp_path / "in", "st"))
    path = {"all": packed, "folder": packed / "st", "file": packed / "st" / "model.safetensors"}[named]
    told = carried(path, tmp_path / "b")
    before, after = contents(source), contents(tmp_path / "b")
    assert {name: before[name] for name in GO} == {n: data for n, data in after.items() if n != "model.safetensors"}
    with ckptconv.open(tmp_path / "b" / "model.safetensors") as written:
        assert written.metadata == ({"st/onnx/config.json": "{}"} if named == "all" else {})  # files are no metadata
    stay = [message for code, _, message in told if code == "members"]
    assert [one.startswith("3 members of the archive stay behind: ") for one in stay] == [True] * (named == "all")


def test_a_state_dict_in_an_archive_stays_one(tmp_path: Path) -> None:
    home = tmp_path / "a"
    home.mkdir()
    torch.save({"w": torch.ones(2)}, home / "pytorch_model.bin")
    (home / "config.json").write_text("{}")
    packed = shutil.make_archive(f"{tmp_path}/a", "zip", home)
    (tmp_path / "b").mkdir()
    ckptconv.convert(packed, tmp_path / "b" / "pytorch_model.bin", with_files=True)
    assert list(torch.load(tmp_path / "b" / "pytorch_model.bin")) == ["w"]


def test_pickled_weights_of_a_module_go_along_where_they_run_nothing(tmp_path: Path) -> None:
    source = sentences(tmp_path / "a")
    torch.save(DENSE, source / "2_Dense" / "pytorch_model.bin")
    carried(source, tmp_path / "b")
    assert not (tmp_path / "b" / "2_Dense" / "pytorch_model.bin").exists()  # a copy, which nobody loads
    (source / "2_Dense" / "model.safetensors").unlink()
    carried(source, tmp_path / "c")
    assert (tmp_path / "c" / "2_Dense" / "pytorch_model.bin").exists()
    (source / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(os.getcwd).replace(b"getcwd", b"system"))
    with pytest.raises(UnsafeError, match=r"2_Dense/pytorch_model\.bin: .* would run code: 'posix\.system'"):
        ckptconv.convert(source, f"{tmp_path}/d/", with_files=True)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["2_Dense", "additional_chat_templates"])
def test_a_part_that_is_a_link_to_elsewhere_is_reported_and_not_copied(name: str, tmp_path: Path) -> None:
    """Of what a stranger packed: whose files would they be?"""
    source = sentences(tmp_path / "a")
    (source / name).rename(tmp_path / "elsewhere")
    (source / name).symlink_to(tmp_path / "elsewhere")
    told = carried(source, tmp_path / "b")
    warning = f"not copied, since links lead nowhere, elsewhere, or to where one may not look: {name}"
    assert ("not-copied", "warning", warning) in told
    assert not [path for path in contents(tmp_path / "b") if path.startswith(name)]


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ([{"path": "../b"}], r"names '\.\./b', which is not a folder in this one"),
        ([{"path": "/etc"}], "names '/etc'"),
        ([{"path": "2_Dense\\x"}], "which is not a folder"),
        ([{"path": 3}], "names 3"),
        ({"path": "2_Dense"}, "is not a list of modules"),
        (["2_Dense"], "is not a list of modules"),
    ],
)
def test_an_invalid_list_of_modules_is_refused(modules: object, said: str, tmp_path: Path) -> None:
    source = sentences(tmp_path / "a", modules)
    with pytest.raises(CorruptFileError, match=said) as caught:
        ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    assert caught.value.path == source / "modules.json"
    assert not (tmp_path / "b").exists()


def test_weights_that_are_cut_or_lie_behind_a_broken_link_do_not_pass_in_silence(tmp_path: Path) -> None:
    source = sentences(tmp_path / "a")
    weights = source / "2_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"2_Dense/model\.safetensors"):
        ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    weights.unlink()
    weights.symlink_to("gone")
    told = carried(source, tmp_path / "c")
    assert [(code, severity) for code, severity, message in told if "lead nowhere" in message] == [
        ("not-copied", "warning")
    ]


def test_a_file_that_is_there_is_not_replaced_and_no_folder_is_left_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sentences(tmp_path / "a"), tmp_path / "b"
    (target / "1_Pooling").mkdir(parents=True)
    (target / "1_Pooling" / "config.json").write_text("mine")
    with pytest.raises(TargetExistsError) as caught:
        ckptconv.convert(source, f"{target}/", with_files=True)
    assert caught.value.path == target / "1_Pooling" / "config.json"
    link, replace = os.link, os.replace

    def refused(call: object) -> object:
        def refusing(old: Path, new: Path, **rest: object) -> None:
            if os.fspath(new).endswith("b/model.safetensors"):
                raise OSError(5, "Input/output error")
            call(old, new, **rest)  # type: ignore[operator]

        return refusing

    monkeypatch.setattr(os, "link", refused(link))
    monkeypatch.setattr(os, "replace", refused(replace))
    with pytest.raises(FileAccessError, match="cannot write"):
        ckptconv.convert(source, f"{target}/", with_files=True, force=True)
    assert contents(target) == {"1_Pooling/config.json": b"mine"}
    assert os.listdir(target) == ["1_Pooling"]  # nor an empty 2_Dense


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_member_that_fails_its_checksum_is_not_copied_and_leaves_no_folder(
    unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sentences(tmp_path / "a")
    (source / "2_Dense" / "vocab.model").write_bytes(b"unharmed")  # no text: nobody has read it before
    with zipfile.ZipFile(tmp_path / "st.zip", "w") as file:
        for name, data in contents(source).items():
            file.writestr(name, data)
    (tmp_path / "st.zip").write_bytes((tmp_path / "st.zip").read_bytes().replace(b"unharmed", b"harmed!!"))
    if not unnamed:
        without_unnamed_files(monkeypatch)
    with pytest.raises(CorruptFileError, match=r"vocab\.model: it fails its CRC-32"):
        ckptconv.convert(tmp_path / "st.zip", f"{tmp_path}/b/", with_files=True)
    assert not (tmp_path / "b").exists()


def test_a_module_of_many_files_is_no_models(tmp_path: Path) -> None:
    source = sentences(tmp_path / "a")
    for number in range(100):
        (source / "1_Pooling" / f"{number}.txt").write_text("a cat")
    with pytest.raises(LimitError, match="107 files lie beside the weights"):
        ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)


def test_of_a_pipeline_the_configurations_of_its_components_go_along(tmp_path: Path) -> None:
    """As diffusers' from_single_file(…, config=FOLDER) asks for them."""
    source = tmp_path / "pipe"
    index = {"_class_name": "P", "scheduler": ["diffusers", "S"], "unet": ["diffusers", "UNet2DConditionModel"]}
    for name in ("scheduler/scheduler_config", "unet/config", "samples/config"):
        (source / name).parent.mkdir(parents=True)
        (source / f"{name}.json").write_text("{}")
    (source / "model_index.json").write_text(json.dumps(index))
    save_file({"w": torch.ones(2)}, source / "unet" / "diffusion_pytorch_model.safetensors")
    told = carried(source, tmp_path / "b")
    assert set(contents(tmp_path / "b")) == {
        "model.safetensors", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
    }  # fmt: skip
    assert list(load_file(tmp_path / "b" / "model.safetensors")) == ["unet.w"]
    assert [message for _, _, message in told] == ["not copied, since nothing says that they are the model's: samples/"]
