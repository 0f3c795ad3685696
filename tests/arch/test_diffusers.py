"""``--arch config.json`` of diffusers: the class that it names says what fits, and nothing else happens."""

from __future__ import annotations

import importlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, MissingExtraError, UsageError
from tests.arch.real_models import diffusers_module

if TYPE_CHECKING:
    from pathlib import Path

diffusers = diffusers_module()

VIDEO = {
    "num_layers": 1, "attention_head_dim": 12, "num_attention_heads": 2, "ffn_dim": 20, "text_dim": 14, "freq_dim": 16,
    "in_channels": 4, "out_channels": 4,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "WanTransformer3DModel": VIDEO,
    "HunyuanDiT2DModel": {
        "num_layers": 2, "hidden_size": 24, "num_attention_heads": 2, "attention_head_dim": 12, "sample_size": 8,
        "patch_size": 2, "in_channels": 4,
        "cross_attention_dim": 16, "cross_attention_dim_t5": 16, "pooled_projection_dim": 16,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1],
    },
}  # fmt: skip
"""One that the library has, and two that it lacks."""
INPUTS = ["hidden_states:F32[N,4,1,8,8]", "timestep:I64[N]<1000", "encoder_hidden_states:F32[N,5,14]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each as ``save_pretrained`` writes it."""
    made, root = {}, tmp_path_factory.mktemp("pipeline")
    for name, options in MODELS.items():
        torch.manual_seed(0)
        made[name] = root / name
        getattr(diffusers, name)(**options).save_pretrained(made[name])
    return made


def weights(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", MODELS)
def test_what_the_class_saves_fits_it_and_nothing_else_does(
    folders: dict[str, Path], name: str, tmp_path: Path
) -> None:
    arch = str(folders[name] / "config.json")
    result = ckptconv.validate(folders[name], arch=arch)
    assert (result.valid, result.arch) == (True, f"diffusers.{name}")
    state = load_file(weights(folders[name]))
    first = next(key for key, value in state.items() if value.dim() >= 2)
    for changed in ({**state, first: torch.zeros(3, 5)}, {k: v for k, v in state.items() if k != first}):
        save_file(changed, tmp_path / "changed.safetensors")
        result = ckptconv.validate(tmp_path / "changed.safetensors", arch=arch)
        assert not result.valid
        assert first in str([finding.to_dict() for finding in result.findings])


def test_it_computes_and_becomes_a_graph_once_its_inputs_are_described(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """A pipeline knows what goes in, and the class does not."""
    folder, graph = folders["WanTransformer3DModel"], tmp_path / "m.onnx"
    arch = str(folder / "config.json")
    assert ckptconv.verify(folder, weights(folder), arch=arch, inputs=INPUTS, samples=2).equivalent
    ckptconv.convert(folder, graph, arch=arch, inputs=INPUTS)
    with ckptconv.open(graph) as found, ckptconv.open(folder) as held:
        assert found.keys() == held.keys()
    for ask in (
        lambda: ckptconv.verify(folder, folder, arch=arch),
        lambda: ckptconv.convert(folder, tmp_path / "n.onnx", arch=arch),
    ):
        with pytest.raises(UsageError, match="nothing says what") as caught:
            ask()
        assert "hidden_states, timestep, encoder_hidden_states" in (caught.value.hint or "")
    assert not (tmp_path / "n.onnx").exists()


def test_settings_outrank_the_configuration_and_are_checked(folders: dict[str, Path]) -> None:
    folder = folders["HunyuanDiT2DModel"]
    arch = str(folder / "config.json")
    assert not ckptconv.validate(folder, arch=arch, settings=["num_layers=4"]).valid
    with pytest.raises(UsageError, match="has no 'num_layer' to set") as caught:
        ckptconv.validate(folder, arch=arch, settings=["num_layer=4"])
    assert "'num_layers'" in (caught.value.hint or "")


def configured(folders: dict[str, Path], tmp_path: Path, **changes: object) -> str:
    config = json.loads((folders["WanTransformer3DModel"] / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path / "config.json")


def test_nothing_that_it_names_is_fetched_or_run(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> None:
        raise AssertionError("something is fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    (tmp_path / "canary.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    arch = configured(
        folders, tmp_path, auto_map={"AutoModel": "canary.Net"}, _name_or_path="someone/something",
        quantization_config={"quant_method": "bitsandbytes"}, pretrained_model_name_or_path="someone/something",
    )  # fmt: skip
    assert ckptconv.validate(folders["WanTransformer3DModel"], arch=arch).arch == "diffusers.WanTransformer3DModel"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.py", "config.json"]


@pytest.mark.parametrize(
    "name", ["os.system", "DiffusionPipeline", "ModelMixin", "AutoModel", "DDIMScheduler", "__name__", "None", 7, None]
)
def test_what_is_no_model_of_diffusers_is_refused(folders: dict[str, Path], tmp_path: Path, name: object) -> None:
    arch = configured(folders, tmp_path, _class_name=name)
    with pytest.raises(UsageError, match="has no model") as caught:
        ckptconv.validate(folders["WanTransformer3DModel"], arch=arch)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num_layers": 1_000_000_000}, LimitError),
        ({"_class_name": "AutoencoderTiny", "num_encoder_blocks": [10**9, 1]}, LimitError),
        ({"num_attention_heads": "two"}, UsageError),
        ({"num_attention_heads": 1 << 60}, UsageError),
        ({"patch_size": None}, UsageError),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, object], error: type[CkptconvError]
) -> None:
    with pytest.raises(error) as caught:
        ckptconv.validate(folders["AutoencoderTiny"], arch=configured(folders, tmp_path, **changes))
    assert caught.value.hint
    assert "transformers" not in caught.value.message


def test_without_diffusers_or_with_an_old_one_it_says_what_to_install(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders["AutoencoderTiny"]
    monkeypatch.setattr(importlib.import_module("diffusers"), "__version__", "0.30.1")
    with pytest.raises(UsageError, match=r"0\.30\.1 is too old") as caught:
        ckptconv.validate(folder, arch=str(folder / "config.json"))
    assert "diffusers>=" in (caught.value.hint or "")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match="diffusers") as missing:
        ckptconv.validate(folder, arch=str(folder / "config.json"))
    assert "ckptconv[diffusers]" in (missing.value.hint or "")


def test_a_file_that_is_no_configuration_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('["_class_name"]')
    with pytest.raises(CorruptFileError):
        ckptconv.validate(folders["AutoencoderTiny"], arch=str(tmp_path / "config.json"))


def test_a_class_that_the_library_lacks_is_asked_without_being_named(folders: dict[str, Path]) -> None:
    result = ckptconv.validate(folders["HunyuanDiT2DModel"])
    assert (result.valid, result.arch, result.evidence) == (True, "diffusers.HunyuanDiT2DModel", "config.json")
    [told] = result.findings
    assert (told.code, told.severity) == ("class", "info")
    assert "built by the diffusers that is installed" in told.message
