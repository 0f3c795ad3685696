"""transformers' towers as llama.cpp has them: what its converter makes of them, told again by its table of names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import MODEL_ARCH, get_tensor_name_map

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits.apply import apply
from ckptconv.edits.dialects.gguf_projectors import projectors
from ckptconv.edits.translate import changes_in, left_alone, translation
from ckptconv.errors import EditError, UnsupportedError
from tests.support.mmproj import BREAK, CASES, LAYOUTS, state

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from tests.support.mmproj import Arrays

NAMES = get_tensor_name_map(MODEL_ARCH.MMPROJ, 4)
EMBEDDINGS = "embed_tokens.weight"
CONNECTED = {"layer_norm": "mlp1.0", "linear_1": "mlp1.1", "linear_2": "mlp1.3"}


def lazy(arrays: Arrays) -> dict[str, LazyTensor]:
    return {name: in_memory(TensorInfo.of(DType.F32, one.shape), one.tobytes(), name) for name, one in arrays.items()}


def infos(arrays: Arrays) -> dict[str, TensorInfo]:
    return {name: TensorInfo.of(DType.F32, one.shape) for name, one in arrays.items()}


def projector(case: str) -> str:
    found: str = CASES[case]["entries"]["clip.projector_type"]["value"]
    return found


def converted(case: str) -> Arrays:
    """What `modify_tensors` of llama.cpp's classes do, in numpy's words."""
    found: Arrays = {}
    for name, array in state(case).items():
        for own, one in _modified(projector(case), name, array, CASES[case]["config"]).items():
            known = own if own.startswith(("v.", "mm.")) else NAMES.get_name(own, try_suffixes=(".weight", ".bias"))
            assert known is not None, own
            found[known] = one
    return found


def _modified(kind: str, name: str, array: Any, config: dict[str, Any]) -> Arrays:
    number = next(iter(re.findall(r"\.(\d+)\.", name)), "")
    if name.endswith(EMBEDDINGS):
        return {"v.token_embd.img_break": array[BREAK]} if kind == "pixtral" else {}
    if ".vision_model.head." in name:
        return {}
    if kind == "gemma3":
        return {name.replace("_weight", ".weight"): array + 1 if "soft_emb_norm" in name else array}
    if kind == "pixtral" and re.search(r"[qk]_proj", name):
        heads = config["vision_config"]["num_attention_heads"]
        return {name: array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)}
    if kind in ("qwen2a", "voxtral"):
        name = f"audio.{name}" if name.startswith("multi_modal") else name
        return {name: array[:, None] if re.search(r"conv\d\.bias", name) else array}
    if kind.startswith("qwen"):
        return _qwen(kind, name.removeprefix("model."), array, config)
    if kind == "internvl":
        return _internvl(name, array, number)
    if kind == "llama4":
        renamed = {
            "multi_modal_projector.linear_1.weight": "mm.model.fc.weight",
            "vision_model.positional_embedding_vlm": "v.position_embd.weight",
            f"vision_model.model.layers.{number}.post_attention_layernorm.weight": f"v.blk.{number}.ln2.weight",
            f"vision_model.model.layers.{number}.post_attention_layernorm.bias": f"v.blk.{number}.ln2.bias",
        }
        return {renamed.get(name, name): array}
    return {name: array}


def _qwen(kind: str, name: str, array: Any, config: dict[str, Any]) -> Arrays:
    if name == "visual.patch_embed.proj.weight":
        return {"v.patch_embd.weight": array[:, :, 0], "v.patch_embd.weight.1": array[:, :, 1]}
    if kind == "qwen3vl_merger":
        merged = {"linear_fc1": "mm.0", "linear_fc2": "mm.2", "norm": "v.post_ln"}
        for part, new in merged.items():
            name = name.replace(f"visual.merger.{part}", new)
        if "deepstack" in name:
            _, _, number, part, ending = name.split(".")
            layer = config["vision_config"]["deepstack_visual_indexes"][int(number)]
            name = f"v.deepstack.{layer}.{part.replace('linear_', '')}.{ending}"
        return {name.replace("visual.patch_embed.proj.bias", "v.patch_embd.bias"): array}
    if ".qkv." in name:
        return {name.replace("qkv", part): one for part, one in zip("qkv", np.split(array, 3), strict=True)}
    return {name: array}


def _internvl(name: str, array: Any, number: str) -> Arrays:
    for part, new in CONNECTED.items():
        name = name.replace(f"model.multi_modal_projector.{part}", new)
    name = f"vision_tower.{name}" if name.startswith("vision_model.") else name
    name += ".weight" * bool(re.search(r"\.ls\d$|\.lambda_\d$|position_embeddings?$", name))
    if ".qkv." not in name:
        return {name: array}
    parts = zip("qkv", np.split(array, 3), strict=True)
    return {name.replace("attn.qkv", f"self_attn.{part}_proj"): one for part, one in parts}


def test_every_projector_that_is_written_has_a_case() -> None:
    assert {projector(case) for case in CASES} | {"mlp"} == {*projectors()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_llama_cpp_makes(case: str, layout: str) -> None:
    tensors = lazy({LAYOUTS[layout](name): one for name, one in state(case).items()})
    found = apply(tensors, translation("to-mmproj", tensors, CASES[case]["config"]))
    if "token_embd.weight" in found:  # a row of it, which one the tokenizer says
        row = found.pop("token_embd.weight").numpy()[BREAK]
        assert np.array_equal(row, converted(case)["v.token_embd.img_break"])
    wanted = {name: one for name, one in converted(case).items() if name != "v.token_embd.img_break"}
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert np.array_equal(found[name].numpy(), one), name


def test_the_language_model_is_left_out_with_a_word() -> None:
    said = left_alone("to-mmproj", infos(state("gemma3")), CASES["gemma3"]["config"])
    assert [one.code for one in said] == ["left-out"]
    assert said[0].message.endswith("(1), of which --translate to-gguf makes a file")


def test_of_a_language_model_that_is_not_written_nothing_is_promised() -> None:
    """One that LLaVA may have around it, and llama.cpp's converter not."""
    config = CASES["llava-pixtral"]["config"]
    config = {**config, "text_config": {**config["text_config"], "model_type": "opt"}}
    tensors = infos(state("llava-pixtral")) | {"language_model.model.norm.weight": TensorInfo.of(DType.F32, (4,))}
    said = left_alone("to-mmproj", tensors, config)
    assert [one.message for one in said] == ["tensors of the language model are left out (2)"]


def test_layers_that_predict_further_tokens_are_the_language_model_s() -> None:
    tensors = infos(state("qwen3_5")) | {"mtp.fc.weight": TensorInfo.of(DType.F32, (4, 4))}
    said = left_alone("to-mmproj", tensors, CASES["qwen3_5"]["config"])
    assert [one.message[:47] for one in said] == ["tensors of the language model are left out (2),"]


def test_the_language_model_says_which_command_makes_the_other_file() -> None:
    tensors = infos(state("qwen2_5vl"))
    said = left_alone("to-gguf", tensors, CASES["qwen2_5vl"]["config"])
    assert f"({len(tensors) - 1}), of which --translate to-mmproj makes a file" in said[0].message


CLIP = {"model_type": "clip_vision_model", "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8}
LLAVA: dict[object, object] = {"architectures": ["LlavaForConditionalGeneration"], "vision_config": CLIP}


def clip(layers: int = 3) -> Arrays:
    parts = {f"encoder.layers.{i}.layer_norm1.weight": np.ones(8, "f4") for i in range(layers)}
    parts |= {name: np.ones((2, 8), "f4") for name in ("pre_layrnorm.weight", "post_layernorm.weight")}
    parts |= {"embeddings.class_embedding": np.ones(8, "f4"), "embeddings.position_ids": np.ones((1, 2), "f4")}
    return {f"vision_tower.vision_model.{name}": one for name, one in parts.items()}


@pytest.mark.parametrize(("said", "layers"), [(None, 2), (-1, 3), (1, 1)])
def test_of_a_tower_of_clip_the_layers_past_the_one_that_is_looked_at_are_left_out(said: Any, layers: int) -> None:
    tensors = lazy(clip())
    found = apply(tensors, translation("to-mmproj", tensors, {**LLAVA, "vision_feature_layer": said}))
    assert sorted(found) == [*(f"v.blk.{i}.ln1.weight" for i in range(layers)), "v.class_embd", "v.pre_ln.weight"]


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({}, EditError, "no configuration says which transformers class"),
        ({"architectures": ["Florence2ForConditionalGeneration"]}, UnsupportedError, "the pictures or sounds of a 'Fl"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, EditError, "the configuration has no vision_config"),
        ({**LLAVA, "vision_config": {"model_type": "siglip_vision_model"}}, UnsupportedError,
         "LlavaForConditionalGeneration with a tower of 'siglip_vision_model'"),
        ({**LLAVA, "vision_feature_layer": [-2, -5]}, EditError, "is '[-2, -5]', and no one layer of 3"),
        ({**LLAVA, "vision_feature_layer": 4}, EditError, "is '4', and no one layer of 3"),
    ],
)  # fmt: skip
def test_what_is_no_such_model_is_refused(config: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        changes_in("to-mmproj", infos(clip()), config)


@pytest.mark.parametrize(
    ("case", "names", "words"),
    [
        ("gemma3", {"vision_tower.strange.weight": (4, 4)}, "gemma3 has no place for 'vision_tower.strange.weight'"),
        ("qwen2_5vl", {"visual.patch_embed.proj.weight": (4, 3, 1, 2, 2)}, "no convolution over two frames"),
        ("qwen2_5vl", {"visual.blocks.0.attn.qkv.weight": (4, 4)}, "4 rows, which are not 3 equal parts"),
        ("qwen3vl", {"model.visual.deepstack_merger_list.2.norm.weight": (4,)}, "no layer for deepstack_merger_list.2"),
        ("mistral3", {"vision_tower.transformer.layers.0.attention.q_proj.weight": (6, 4)}, "no 4 heads of two halves"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(case: str, names: dict[str, tuple[int, ...]], words: str) -> None:
    tensors = infos(state(case)) | {name: TensorInfo.of(DType.F32, shape) for name, shape in names.items()}
    with pytest.raises(EditError, match=re.escape(words)):
        changes_in("to-mmproj", tensors, CASES[case]["config"])


def test_a_model_without_its_tower_is_refused() -> None:
    tensors = {"language_model.model.embed_tokens.weight": TensorInfo.of(DType.F32, (4, 4))}
    with pytest.raises(EditError, match="there are no tensors for pictures or sounds"):
        changes_in("to-mmproj", tensors, CASES["gemma3"]["config"])


def test_weights_that_are_quantized_are_refused() -> None:
    tensors = infos(state("gemma3"))
    tensors["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"] = TensorInfo.of(DType.I8, (96, 64))
    with pytest.raises(EditError, match="is of I8, and not of floats") as caught:
        changes_in("to-mmproj", tensors, CASES["gemma3"]["config"])
    assert caught.value.hint == "weights that are quantized need --dequantize"


AROUND: list[tuple[str, Any, str]] = [
    ("llava-pixtral", {}, "llama"), ("idefics3", {}, "llama"), ("internvl", {}, "qwen2"), ("qwen2audio", {}, "qwen2"),
    ("voxtral", {}, "llama"), ("internvl-chat", {}, "qwen2"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "said", "arch"), AROUND)
def test_the_language_model_of_a_class_around_several(case: str, said: Any, arch: str) -> None:
    """Names in each of the layouts; what the configuration leaves out is what transformers' class takes by itself."""
    config = CASES[case]["config"]
    key = "llm_config" if "llm_config" in config else "text_config"
    text = {name: value for name, value in config[key].items() if name not in ("num_attention_heads", "architectures")}
    layer = "layers.0.self_attn.q_proj.weight"
    for before in ("language_model.model.", "model.language_model.", "model.text_model.", "model."):
        tensors = {f"{before}{layer}": TensorInfo.of(DType.F32, (64, 64))}
        (change,) = changes_in("to-gguf", tensors, {**config, key: text}).values()
        assert change.names == ("blk.0.attn_q.weight",)
        assert (change.permute is not None) == (arch == "llama")
        assert change.permute is None or change.permute[0] == (32, 2, 1)


def test_a_language_model_that_is_none_of_them_is_refused() -> None:
    config: dict[object, Any] = {
        "architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "mamba"},
    }  # fmt: skip
    with pytest.raises(UnsupportedError, match="has a 'mamba' in a LlavaForConditionalGeneration"):
        changes_in("to-gguf", infos(clip()), config)
