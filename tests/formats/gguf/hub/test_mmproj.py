"""Folders of models as files of their towers: what llama.cpp's own converter wrote of the same is the oracle."""

from __future__ import annotations

import json
import re
from array import array
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFReader

import ckptconv
from ckptconv.edits.dialects.gguf_config import text_config
from ckptconv.edits.dialects.gguf_projectors import projectors
from ckptconv.edits.dialects.to_mmproj import deepstack, feature_layers
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UnsupportedError, UsageError
from ckptconv.formats.gguf.hub.audio import AUDIO_DEFAULTS
from ckptconv.formats.gguf.hub.vision import VISION_DEFAULTS
from tests.arch.real_models import transformers_module
from tests.support.mmproj import BREAK, CASES, expanded, folder_of, state

if TYPE_CHECKING:
    from pathlib import Path

TO_MMPROJ = [NameRule("translate", "to-mmproj")]
KINDS = ("F32", "F16", "BF16")


def made(source: Path, target: Path, dtype: tuple[str, ...] = (), **options: Any) -> ckptconv.Conversion:
    return ckptconv.convert(source, target, edits=ckptconv.Edits(names=TO_MMPROJ, dtype=dtype), **options)


def single(value: Any) -> Any:
    return array("f", [value])[0] if isinstance(value, float) else value


def entries(reader: GGUFReader) -> dict[str, Any]:
    return {
        key: {"type": "[]".join([one.types[-1].name.lower(), *[""] * (len(one.types) - 1)]), "value": one.contents()}
        for key, one in reader.fields.items()
        if key.startswith("clip.") or key in ("general.architecture", "general.type")
    }


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_llama_cpp_writes(case: str, tmp_path: Path) -> None:
    folder = folder_of(case, tmp_path / "model")
    for number, kind in enumerate(KINDS):
        made(folder, tmp_path / f"{kind}.gguf", (kind,), bare=True)
        reader = GGUFReader(tmp_path / f"{kind}.gguf")
        assert entries(reader) == CASES[case]["entries"]
        found = {one.name: [one.shape.tolist()[::-1], one.tensor_type.name] for one in reader.tensors}
        wanted = {name: [one[0], one[1 + number]] for name, one in expanded(CASES[case]["tensors"]).items()}
        assert found == wanted
        assert reader.fields["general.file_type"].contents() == {"F32": 0, "F16": 1, "BF16": 32}[kind]
        assert reader.fields["general.name"].contents() == "model"


@pytest.mark.parametrize(("kind", "convolution"), [("<f4", "F32"), ("<f2", "F16"), (ml_dtypes.bfloat16, "F32")])
def test_without_a_type_weights_keep_theirs(kind: Any, convolution: str, tmp_path: Path) -> None:
    weights = {name: one.astype(kind) for name, one in state("mistral3").items()}
    made(folder_of("mistral3", tmp_path / "model", weights), tmp_path / "a.gguf")
    found = {one.name: one for one in GGUFReader(tmp_path / "a.gguf").tensors}
    own = {"<f4": "F32", "<f2": "F16"}.get(kind, "BF16")
    assert found["v.blk.0.attn_v.weight"].tensor_type.name == found["mm.1.weight"].tensor_type.name == own
    assert found["v.patch_embd.weight"].tensor_type.name == found["mm.patch_merger.weight"].tensor_type.name
    assert found["v.patch_embd.weight"].tensor_type.name == convolution
    assert found["v.blk.0.ln1.weight"].tensor_type.name == "F32"
    row = weights["language_model.model.embed_tokens.weight"][BREAK].astype("f4")
    assert np.array_equal(found["v.token_embd.img_break"].data, row)


def test_the_plan_says_of_which_tensor_the_row_is(tmp_path: Path) -> None:
    planned = made(folder_of("mistral3", tmp_path / "model"), tmp_path / "a.gguf", dry_run=True)
    sources = {one.target: one.sources for one in planned.plan}
    assert sources["v.token_embd.img_break"] == ("language_model.model.embed_tokens.weight",)


def test_a_glob_outranks_what_is_of_one_type_in_every_file(tmp_path: Path) -> None:
    folder = folder_of("gemma3", tmp_path / "model")
    made(folder, tmp_path / "a.gguf", ("F16", "mm.input_projection.weight=F32"))
    found = {one.name: one for one in GGUFReader(tmp_path / "a.gguf").tensors}
    wanted = state("gemma3")["multi_modal_projector.mm_input_projection_weight"]
    assert np.array_equal(found["mm.input_projection.weight"].data, wanted)


def test_blocks_are_for_the_matrices_of_the_layers(tmp_path: Path) -> None:
    made(folder_of("gemma3", tmp_path / "model"), tmp_path / "a.gguf", ("Q8_0",))
    reader = GGUFReader(tmp_path / "a.gguf")
    types = {one.name: one.tensor_type.name for one in reader.tensors}
    assert types["v.blk.0.ffn_up.weight"] == "Q8_0"
    assert {types[name] for name in ("v.patch_embd.weight", "v.position_embd.weight")} == {"F32"}
    assert types["mm.input_projection.weight"] == "F16"
    assert reader.fields["general.file_type"].contents() == 7


def test_llava_with_a_tower_of_clip(tmp_path: Path) -> None:
    """As llama.cpp's older script for it has it, which loads towers from the hub by their names."""
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8,
              "intermediate_size": 16, "image_size": 4, "patch_size": 2}  # fmt: skip
    config = {"architectures": ["LlavaForConditionalGeneration"], "vision_config": vision,
              "text_config": {"model_type": "llama", "hidden_size": 6}}  # fmt: skip
    shapes = {"embeddings.class_embedding": (8,), "embeddings.patch_embedding.weight": (8, 3, 2, 2),
              "embeddings.position_embedding.weight": (5, 8), "pre_layrnorm.weight": (8,), "pre_layrnorm.bias": (8,),
              "post_layernorm.weight": (8,)}  # fmt: skip
    for i in range(3):
        shapes |= {f"encoder.layers.{i}.mlp.fc1.weight": (16, 8), f"encoder.layers.{i}.mlp.fc2.weight": (8, 16)}
    weights = {f"vision_tower.{name}": np.ones(shape, "f4") for name, shape in shapes.items()}
    weights |= {f"multi_modal_projector.linear_{i}.weight": np.ones((6, n), "f4") for i, n in ((1, 8), (2, 6))}
    folder = folder_of("gemma3", tmp_path / "model", weights, **config)
    made(folder, tmp_path / "a.gguf")
    found = {key: one["value"] for key, one in entries(GGUFReader(tmp_path / "a.gguf")).items()}
    assert found["clip.projector_type"] == "mlp"
    assert found["clip.vision.block_count"] == 2
    assert found["clip.vision.feature_layer"] == [2]
    assert found["clip.vision.projection_dim"] == 6
    assert found["clip.has_llava_projector"] is True
    assert not {"clip.use_gelu", "clip.use_silu"} & found.keys()  # which is what CLIP's quick GELU is


BY_THEMSELVES = {
    "gemma3": "SiglipVisionConfig", "idefics3": "Idefics3VisionConfig", "internvl": "InternVLVisionConfig",
    "llama4": "Llama4VisionConfig", "mlp": "CLIPVisionConfig", "pixtral": "PixtralVisionConfig",
    "qwen2vl_merger": "Qwen2VLConfig", "qwen2.5vl_merger": "Qwen2_5_VLConfig", "qwen3vl_merger": "Qwen3VLConfig",
    "qwen2a": "Qwen2AudioEncoderConfig", "voxtral": "VoxtralEncoderConfig",
}  # fmt: skip


def test_what_configurations_leave_out_is_what_transformers_classes_take_by_themselves() -> None:
    transformers = transformers_module()
    unsaid = {**VISION_DEFAULTS, **AUDIO_DEFAULTS}
    assert unsaid.keys() == BY_THEMSELVES.keys() == projectors().keys()
    for name, values in unsaid.items():
        config = getattr(transformers, BY_THEMSELVES[name])()
        config = getattr(config, "vision_config", config).to_dict()
        for key, value in values.items():
            assert config[key] in (value, [value, value]), (name, key)
    assert deepstack({}) == [*transformers.Qwen3VLConfig().vision_config.deepstack_visual_indexes]
    assert feature_layers({"vision_config": {}}) == 12 - 1
    text = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
    for kind, name in text.items():
        config = getattr(transformers, name)().to_dict()
        config |= config["rope_parameters"]
        said = text_config({"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": kind}})
        found = {key: value for key, value in said.items() if isinstance(value, int | float)}
        assert found == {key: config[key] for key in found}
        assert {"num_attention_heads", "hidden_size", "vocab_size", "rms_norm_eps", "rope_theta"} <= found.keys()


def test_what_a_person_says_outranks_the_files_in_llama_cpps_type(tmp_path: Path) -> None:
    folder = folder_of("smolvlm", tmp_path / "model")
    said = {"clip.vision.image_mean": [0, 1, 0.25], "clip.vision.preproc_image_size": 99, "general.name": 7}
    made(folder, tmp_path / "a.gguf", metadata=said)
    reader = GGUFReader(tmp_path / "a.gguf")
    found = entries(reader)
    assert found["clip.vision.image_mean"] == {"type": "float32[]", "value": [0.0, 1.0, 0.25]}
    assert found["clip.vision.preproc_image_size"] == {"type": "uint32", "value": 99}
    assert reader.fields["general.name"].contents() == "7"


def test_processor_config_says_it_too(tmp_path: Path) -> None:
    folder = folder_of("smolvlm", tmp_path / "model")
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EditError, match=r"beside the weights says an image_mean") as caught:
        made(folder, tmp_path / "a.gguf")
    assert caught.value.hint is not None
    assert "--meta 'clip.vision.image_mean=[0.5, 0.5, 0.5]' says it" in caught.value.hint
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": said}), "utf-8")
    made(folder, tmp_path / "a.gguf")
    found = entries(GGUFReader(tmp_path / "a.gguf"))
    assert found == CASES["smolvlm"]["entries"]


def test_without_a_preprocessor_a_person_can_say_it(tmp_path: Path) -> None:
    folder = folder_of("gemma3", tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    said = {f"clip.vision.image_{one}": [0.5, 0.5, 0.5] for one in ("mean", "std")}
    made(folder, tmp_path / "a.gguf", metadata=said)
    assert entries(GGUFReader(tmp_path / "a.gguf")) == CASES["gemma3"]["entries"]


def tower(case: str, **changed: Any) -> dict[str, Any]:
    key = "audio_config" if "audio_config" in CASES[case]["config"] else "vision_config"
    return {key: CASES[case]["config"][key] | changed}


@pytest.mark.parametrize(
    ("case", "changed", "error", "words"),
    [
        ("gemma3", tower("gemma3", hidden_act="relu"), UnsupportedError, "gemma3 has no hidden_act 'relu'"),
        ("gemma3", {"mm_tokens_per_image": 5}, UnsupportedError, "squares of 4 × 4 patches are pooled"),
        ("gemma3", {"mm_tokens_per_image": 9}, UnsupportedError, "no mm_tokens_per_image '9'"),
        ("gemma3", tower("gemma3", num_hidden_layers=5), EditError, "says 5 layers, and the tensors have 4"),
        ("gemma3", tower("gemma3", hidden_size=32), EditError, "embedding_length 32, and v.patch_embd.weight is [64,"),
        ("gemma3", tower("gemma3", intermediate_size=9), EditError, "feed_forward_length 9, and v.blk.0.ffn_up"),
        ("gemma3", tower("gemma3", image_size=112), EditError, "says positions 64, and v.position_embd.weight is [16"),
        ("gemma3", tower("gemma3", num_attention_heads=5), EditError, "says heads 5, and the tower is 64 wide"),
        ("gemma3", tower("gemma3", num_attention_heads="4"), CorruptFileError, "not a whole number from 0 to 429496"),
        ("gemma3", tower("gemma3", patch_size=7, image_size=28), EditError, "says patch_size 7, and v.patch_embd"),
        ("gemma3", {"text_config": {"hidden_size": 9}}, EditError, "says texts of a width 9, and mm.input_projection"),
        ("idefics3", {"scale_factor": 0}, CorruptFileError, "scale_factor is '0'"),
        ("internvl", {"downsample_ratio": 0.3}, UnsupportedError, "no downsample_ratio '0.3': it is 1, 1/2"),
        ("internvl", tower("internvl", norm_type="rms_norm"), UnsupportedError, "3,200 × 45 alone has RMS norms"),
        ("internvl", tower("internvl", image_size=[56, 28]), UnsupportedError, "it takes square images and patches"),
        ("internvl", tower("internvl", use_mean_pooling=False), UnsupportedError, "no norm behind the last layer"),
        ("internvl", {"vision_feature_layer": -2}, UnsupportedError, "it takes the outputs of the last layer"),
        ("internvl-chat", {"select_layer": -4}, UnsupportedError, "no select_layer '-4'"),
        ("internvl-chat", {"ps_version": "v1"}, UnsupportedError, "patches are merged as in v2"),
        ("llama4", tower("llama4", rope_parameters={"rope_theta": 99.0}), UnsupportedError, "it computes with 10,000"),
        ("llama4", tower("llama4", multi_modal_projector_bias=True), UnsupportedError, "its projector has no bias"),
        ("llava-pixtral", {"vision_feature_select_strategy": "default"}, UnsupportedError, "all outputs are taken"),
        ("llava-pixtral", {"vision_feature_select_strategy": None}, UnsupportedError, "strategy 'default'"),
        ("llava-pixtral", {"vision_feature_layer": None}, UnsupportedError, "no vision_feature_layer '-2'"),
        ("llava-pixtral", {"projector_hidden_act": "relu"}, UnsupportedError, "its projector computes with gelu"),
        ("mistral3", tower("mistral3", head_dim=32), UnsupportedError, "no head_dim '32': it has 4 heads in 64"),
        ("mistral3", {"vision_feature_layer": -2}, UnsupportedError, "no vision_feature_layer '-2'"),
        ("qwen2vl-wide", tower("qwen2vl-wide", spatial_merge_size=4), UnsupportedError, "2 × 2 patches become one"),
        ("qwen2vl-wide", tower("qwen2vl-wide", in_chans=1), UnsupportedError, "pictures have three colours"),
        ("qwen2_5vl", tower("qwen2_5vl", window_size=56), UnsupportedError, "windows are of 112 pixels"),
        ("qwen2_5vl", tower("qwen2_5vl", depth=1 << 31, fullatt_block_indexes=[0]), UnsupportedError, "attends to all"),
        ("qwen2_5vl", tower("qwen2_5vl", fullatt_block_indexes=[1, 2]), UnsupportedError, "the last attends to all"),
        ("qwen3vl", tower("qwen3vl", num_position_embeddings=15), UnsupportedError, "they are a square"),
        ("qwen3vl", tower("qwen3vl", deepstack_visual_indexes=[0, 7]), CorruptFileError, "no list of 3 layers"),
        ("qwen2audio", tower("qwen2audio", activation_function="relu"), UnsupportedError, "it computes with gelu"),
        ("qwen2audio", tower("qwen2audio", num_mel_bins=80), EditError, "says num_mel_bins 80, and a.conv1d.1.weight"),
        ("qwen2audio", tower("qwen2audio", max_source_positions=9), EditError, "says positions 9, and a.position_embd"),
        ("voxtral", tower("voxtral", intermediate_size=128), UnsupportedError, "4 frames of 64 become one"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    case: str, changed: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        made(folder_of(case, tmp_path / "model", **changed), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(
    ("case", "lost", "words"),
    [
        ("mistral3", "multi_modal_projector.linear_2.weight", "there is no mm.2.weight"),
        (
            "mistral3",
            "language_model.model.embed_tokens.weight",
            "row 12 of the language model's embeddings",
        ),
        ("gemma3", "vision_tower.vision_model.encoder.layers.1.mlp.fc2.bias", "layer 1 has no ffn_down.bias"),
        ("qwen2audio", "audio_tower.embed_positions.weight", "there is no a.position_embd.weight"),
    ],
)
def test_a_tensor_that_is_missing_is_named(case: str, lost: str, words: str, tmp_path: Path) -> None:
    weights = {name: one for name, one in state(case).items() if name != lost}
    with pytest.raises(EditError, match=re.escape(words)):
        made(folder_of(case, tmp_path / "model", weights), tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("name", "document", "words"),
    [
        ("tokenizer_config.json", {}, "no tokenizer beside the weights has a token [IMG_BREAK]"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "[IMG_BREAK]"}}}, "number of [IMG_BREAK]"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"999": {"content": "[IMG_BREAK]"}}}, "row 999 of the lang"),
        ("preprocessor_config.json", {"image_mean": [1, 2], "image_std": [1, 2, 3]}, "image_mean is '[1, 2]', and no"),
        ("preprocessor_config.json", {"image_mean": [1, 2, 1e99], "image_std": [1, 2, 3]}, "image_mean is"),
        ("config.json", {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": 3}, "no vision_config"),
    ],
)  # fmt: skip
def test_documents_that_do_not_fit_end_in_a_line(name: str, document: Any, words: str, tmp_path: Path) -> None:
    folder = folder_of("mistral3", tmp_path / "model")
    (folder / name).write_text(json.dumps(document), "utf-8")
    with pytest.raises(CkptconvError, match=re.escape(words)):
        made(folder, tmp_path / "a.gguf")


def test_the_number_of_a_token_is_found_in_the_tokenizer_too(tmp_path: Path) -> None:
    folder = folder_of("llava-pixtral", tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    added = [{"id": 0, "content": "<s>"}, {"id": 303, "content": "[IMG_BREAK]"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), "utf-8")
    made(folder, tmp_path / "a.gguf")
    found = {one.name: one.data for one in GGUFReader(tmp_path / "a.gguf").tensors}
    wanted = state("llava-pixtral")["language_model.model.embed_tokens.weight"][303]
    assert np.array_equal(found["v.token_embd.img_break"], wanted)


def test_mistrals_own_tokenizer_says_it_too(tmp_path: Path) -> None:
    folder = folder_of("mistral3", tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    named = [{"rank": 0, "token_str": "<unk>"}, {"rank": BREAK, "token_str": "[IMG_BREAK]"}]
    (folder / "tekken.json").write_text(json.dumps({"special_tokens": named}), "utf-8")
    made(folder, tmp_path / "a.gguf")
    assert "v.token_embd.img_break" in {one.name for one in GGUFReader(tmp_path / "a.gguf").tensors}


def test_it_goes_into_a_gguf_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--translate to-mmproj makes a GGUF"):
        made(folder_of("gemma3", tmp_path / "model"), tmp_path / "a.safetensors")


def test_it_is_one_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="from one file") as caught:
        made(folder_of("gemma3", tmp_path / "model"), tmp_path / "a.gguf", shard_size="100KB")
    assert caught.value.hint == "leave --shard-size out"


def test_validate_says_what_it_is_also_beside_a_configuration(tmp_path: Path) -> None:
    folder = folder_of("gemma3", tmp_path / "model")
    made(folder, folder / "mmproj.gguf")
    with pytest.raises(UsageError, match=r"what llama\.cpp has for pictures or sounds beside a language model"):
        ckptconv.validate(folder / "mmproj.gguf")
    with pytest.raises(UnsupportedError, match="these are names of a tower for pictures or sounds"):
        edits = ckptconv.Edits(names=[NameRule("translate", "gguf")])
        ckptconv.convert(folder / "mmproj.gguf", tmp_path / "b.safetensors", edits=edits)


ODD: tuple[Any, ...] = (None, True, -1, 0, 1 << 40, 1e300, "x", [], {}, [None], [1 << 70], {"a": 1})


@pytest.mark.parametrize("case", CASES)
def test_no_value_of_a_configuration_ends_in_anything_but_an_error(case: str, tmp_path: Path) -> None:
    """Each value in turn becomes another, of the configuration, of its tower and of the preprocessor."""
    folder = folder_of(case, tmp_path / "model")
    config, preprocessor = CASES[case]["config"], CASES[case]["preprocessor"]
    own = "audio_config" if "audio_config" in config else "vision_config"
    rng = np.random.default_rng(0)

    def odds(count: int) -> list[Any]:
        return [ODD[at] for at in rng.choice(len(ODD), count)]

    asked = [
        *((folder / "config.json", config | {key: odd}) for key in config for odd in odds(1)),
        *((folder / "config.json", config | {own: config[own] | {key: odd}})
          for key in config[own] for odd in odds(2)),
        *((folder / "preprocessor_config.json", preprocessor | {key: odd})
          for key in preprocessor for odd in odds(2)),
    ]  # fmt: skip
    for path, document in asked:
        before = path.read_bytes()
        path.write_text(json.dumps(document), "utf-8")
        try:
            made(folder, tmp_path / "a.gguf", dry_run=True)
        except CkptconvError as error:
            assert "\n" not in str(error)
        path.write_bytes(before)
