"""What lies beside the weights is copied where that is asked for, so that transformers loads what was written."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.api.converting import companions
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    FileAccessError,
    LimitError,
    TargetExistsError,
    UsageError,
)
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from pathlib import Path


def model(folder: Path) -> Any:
    """A small GPT-2 as save_pretrained writes it."""
    transformers = transformers_module()
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16))
    made.save_pretrained(folder)
    return made


def folder(path: Path, **config: object) -> Path:
    path.mkdir()
    save_file({"w": torch.ones(4, 4), "n": torch.ones(3, dtype=torch.int64)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "modeling.py", "trainer_state.json", "chat_template.jinja", "notes.md"):
        (path / name).write_text("{}")
    return path


def test_transformers_loads_what_was_cast(tmp_path: Path) -> None:
    before = model(tmp_path / "a")
    ckptconv.convert(tmp_path / "a", f"{tmp_path}/b/", edits=ckptconv.Edits(dtype=["BF16"]), with_files=True)
    after = type(before).from_pretrained(tmp_path / "b", dtype="auto")
    assert after.dtype == torch.bfloat16
    assert torch.equal(after.transformer.wte.weight, before.transformer.wte.weight.bfloat16())


def test_code_and_what_is_no_models_stays(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x", torch_dtype="float32")
    result = ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    assert sorted(os.listdir(tmp_path / "b")) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    assert (tmp_path / "b" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert {finding.code for finding in result.findings} == {"copied"}


def test_a_link_is_followed_as_in_the_hubs_cache(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x")
    os.rename(source / "config.json", tmp_path / "blob")
    (source / "config.json").symlink_to("../blob")
    ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    assert not (tmp_path / "b" / "config.json").is_symlink()
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == {"model_type": "x"}


def test_a_plain_model_does_not_say_that_it_is_quantized(tmp_path: Path) -> None:
    said = {"quant_method": "fp8", "weight_block_size": [2, 2]}
    source = folder(tmp_path / "a", model_type="x", dtype="bfloat16", quantization_config=said)
    weight, scale = torch.randn(4, 4).to(torch.float8_e4m3fn), torch.rand(2, 2)
    save_file({"w": weight, "w_scale_inv": scale}, source / "model.safetensors")
    (source / "quant_config.json").write_text("{}")
    ckptconv.convert(source, f"{tmp_path}/b/", edits=ckptconv.Edits(dequantize=True), with_files=True)
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == {"model_type": "x", "dtype": "bfloat16"}
    assert not (tmp_path / "b" / "quant_config.json").exists()
    assert load_file(tmp_path / "b" / "model.safetensors")["w"].dtype == torch.bfloat16


def test_small_numbers_that_have_no_scale_are_reported_as_the_configuration_no_longer_does(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x", dtype="bfloat16", quantization_config={"quant_method": "fp8"})
    weight = torch.randn(4, 4).to(torch.float8_e4m3fn)
    codes = {"c": torch.ones(4, 4, dtype=torch.int8), "steps": torch.ones(4, dtype=torch.int8)}
    tensors = {"a": weight, "a_scale_inv": torch.rand(()), "b": weight.clone(), **codes}
    save_file(tensors, source / "model.safetensors")
    plain = ckptconv.Edits(dequantize=True)
    result = ckptconv.convert(source, f"{tmp_path}/b/", edits=plain, with_files=True)
    told = [(one.severity, one.message) for one in result.findings if one.code == "left-quantized"]
    without = "without a known scale"
    assert told == [
        ("warning", f"1 tensor stays F8_E4M3, {without}; --dtype casts: b"),
        ("warning", f"1 tensor stays I8, {without}; if they are weights, they are still quantized: c"),
    ]
    assert load_file(tmp_path / "b" / "model.safetensors")["b"].dtype == torch.float8_e4m3fn
    cast = ckptconv.Edits(dequantize=True, dtype=["BF16"])
    found = ckptconv.convert(source, f"{tmp_path}/c/", edits=cast, with_files=True).findings
    assert [one.where for one in found if one.code == "left-quantized"] == ["c"]


def test_nothing_is_replaced_unasked_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.json").write_text("mine")
    with pytest.raises(TargetExistsError) as caught:
        ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    assert caught.value.path == tmp_path / "b" / "tokenizer.json"
    assert os.listdir(tmp_path / "b") == ["tokenizer.json"]
    ckptconv.convert(source, f"{tmp_path}/b/", with_files=True, force=True)
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
    (source / "config.json").write_text("{")
    with pytest.raises(CorruptFileError, match="is not JSON"):
        ckptconv.convert(source, f"{tmp_path}/c/", edits=ckptconv.Edits(dtype=["F16"]), with_files=True)
    assert not (tmp_path / "c").exists()


def test_a_file_that_cannot_be_copied_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "a", model_type="x")

    def fails(path: Path) -> object:
        raise ckptconv.errors.FileAccessError("cannot read", path=path)

    monkeypatch.setattr("ckptconv.formats.beside.places.Source", fails)
    with pytest.raises(CkptconvError, match="cannot read"):
        ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    assert not (tmp_path / "b").exists()


def test_where_they_go_has_to_be_another_folder_and_something_has_to_lie_there(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x")
    with pytest.raises(UsageError, match="in the folder of SRC"):
        ckptconv.convert(source, source / "b.pth", with_files=True)
    save_file({"w": torch.ones(2)}, tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match="nothing lies beside"):
        ckptconv.convert(tmp_path / "alone.safetensors", f"{tmp_path}/b/", with_files=True)


def test_a_configuration_names_the_type_wherever_it_did_and_keeps_its_style(tmp_path: Path) -> None:
    text = """{
    "torch_dtype": "float32", "dtype": "float32",
    "z": "日本",
    "text_config": {
        "dtype": "float32",
        "hidden": 3
    },
    "vision_config": {
        "torch_dtype": null
    },
    "eps": 1e-05
}"""
    source = folder(tmp_path / "a")
    (source / "config.json").write_text(text)
    ckptconv.convert(source, f"{tmp_path}/b/", edits=ckptconv.Edits(dtype=["F64"]), with_files=True)
    written = (tmp_path / "b" / "config.json").read_text()
    assert written == text.replace('", "dtype', '",\n    "dtype').replace("float32", "float64")


@pytest.mark.parametrize("said", [{"_class_name": "UNet2DModel"}, {"text_config": {"hidden": 3}}, {"dtype": "float16"}])
def test_a_configuration_in_which_nothing_is_wrong_stays_byte_for_byte(said: dict[str, object], tmp_path: Path) -> None:
    source = folder(tmp_path / "a", **said)
    result = ckptconv.convert(source, f"{tmp_path}/b/", edits=ckptconv.Edits(dtype=["F16"]), with_files=True)
    assert (tmp_path / "b" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert "changed" not in result.findings[0].message


def test_letters_that_utf8_does_not_have_stay_escapes(tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    (source / "config.json").write_text('{"dtype": "float32", "a": "é\\ud800"}\n')
    ckptconv.convert(source, f"{tmp_path}/b/", edits=ckptconv.Edits(dtype=["F16"]), with_files=True)
    assert (tmp_path / "b" / "config.json").read_text() == '{"dtype": "float16", "a": "\\u00e9\\ud800"}\n'


def test_a_configuration_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    (source / "config.json").write_text('{"a":' * 600 + "1" + "}" * 600)
    with pytest.raises(LimitError, match="nested deeper"):
        ckptconv.convert(source, f"{tmp_path}/b/", edits=ckptconv.Edits(dtype=["F16"]), with_files=True)


def test_marians_vocabularies_go_along_and_links_to_nowhere_are_reported(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="marian")
    for name in ("source.spm", "target.spm", "bpe.codes"):
        (source / name).write_text("x")
    (source / "vocab.json").symlink_to("gone")
    (source / "gone.bin").symlink_to("gone")
    result = ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)
    assert {"source.spm", "target.spm", "bpe.codes"} <= set(os.listdir(tmp_path / "b"))
    told = [(one.severity, one.where, one.message) for one in result.findings if one.code == "not-copied"]
    assert told == [
        (
            "warning",
            "vocab.json",
            "not copied, since links lead nowhere, elsewhere, or to where one may not look: vocab.json",
        )
    ]


def test_a_folder_that_cannot_be_listed_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "a", model_type="x")

    def refused(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(FileAccessError, match="cannot list this folder"):
        ckptconv.convert(source / "model.safetensors", f"{tmp_path}/b/", with_files=True)


def test_a_folder_of_captions_is_no_models(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x")
    for number in range(companions.MAX_FILES):
        (source / f"{number}.txt").write_text("a cat")
    with pytest.raises(LimitError, match=f"103 files lie beside the weights; the limit is {companions.MAX_FILES}"):
        ckptconv.convert(source, f"{tmp_path}/b/", with_files=True)


def test_old_files_come_back_where_the_weights_do_not_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "a", model_type="new")
    before = folder(tmp_path / "b", model_type="old")
    names, replace = sorted(os.listdir(before)), os.replace

    def refused(old: Path, new: Path) -> None:
        if os.fspath(new).endswith("model.safetensors"):
            raise OSError(5, "Input/output error")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(FileAccessError, match="cannot write"):
        ckptconv.convert(source, before, to_format="safetensors", with_files=True, force=True, shard_size="1MB")
    assert sorted(os.listdir(before)) == names
    assert json.loads((before / "config.json").read_text()) == {"model_type": "old"}


def test_a_dry_run_lists_them_and_writes_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", model_type="x")
    result = ckptconv.convert(source, f"{tmp_path}/b/", with_files=True, dry_run=True)
    assert "config.json" in result.findings[0].message
    listed = [f"{tmp_path}/b/{name}" for name in ("chat_template.jinja", "config.json", "tokenizer.json")]
    assert result.to_dict()["files"] == listed
    with pytest.raises(UsageError, match="in the folder of SRC"):
        ckptconv.convert(source, source / "b.pth", with_files=True, dry_run=True)
    assert not (tmp_path / "b").exists()
