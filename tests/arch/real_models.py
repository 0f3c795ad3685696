"""Real model classes, built on torch's meta device from small configurations: the oracle for the library specs."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from ckptconv.core.dtypes import DTYPES
from ckptconv.core.tensor import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

torch = pytest.importorskip("torch", reason="the oracle is torch")

DTYPE_NAMES = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16", torch.bool: "BOOL"}


@dataclass(frozen=True, eq=False)
class Case:
    """A model: the spec that it belongs to, how to build it, and its configuration or params where they are stated."""

    spec: str
    name: str
    build: Callable[[], Any]
    config: Callable[[], dict[str, Any]] | None = None
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.spec}-{self.name}"


def infos(state_dict: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """The headers of a state_dict's tensors."""
    return {
        name: TensorInfo.of(DTYPES[DTYPE_NAMES[tensor.dtype]], tuple(tensor.shape))
        for name, tensor in state_dict.items()
    }


def aliases(module: Any) -> dict[str, int]:
    """Equal for names that share a parameter."""
    return {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}


@cache
def built(case: Case) -> Any:
    """The module, on the meta device."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return case.build()


@cache
def torchvision_operators() -> Any:
    """Define the operators without which torchvision's Python, which transformers imports too, fails on a CPU torch."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # kept by the cache: a Library takes its operators back when it is collected


@cache
def torchvision_models() -> Any:
    """torchvision's models."""
    torchvision_operators()
    for package in ("PIL", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchvision.models")


def transformers_module() -> Any:
    """transformers, quiet."""
    torchvision_operators()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.logging.set_verbosity_error()
    return transformers


def _transformer(class_name: str, config_name: str, /, **options: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def config() -> Any:
        return getattr(transformers_module(), config_name)(**options)

    def build() -> Any:
        made = config()
        return getattr(transformers_module(), class_name)(made)

    def stated() -> dict[str, Any]:
        return {**config().to_dict(), "architectures": [class_name]}

    return build, stated


def _hugging(spec: str, class_name: str, config_name: str, /, label: str = "", **options: Any) -> Case:
    build, stated = _transformer(class_name, config_name, **options)
    return Case(spec, f"{class_name}{label and f'-{label}'}", build, stated)


def _vision(spec: str, name: str, /, **options: Any) -> Case:
    def build() -> Any:
        return getattr(torchvision_models(), name)(**options)

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Case(spec, f"{name}{label and f'({label})'}", build)


def _small(**more: Any) -> list[dict[str, Any]]:
    """Three sizes of a decoder."""
    rows = [(97, 24, 40, 1, 4, 2), (120, 32, 56, 3, 8, 2), (131, 48, 88, 2, 6, 6)]
    keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads",
    )  # fmt: skip
    return [dict(zip(keys, row, strict=True)) | more for row in rows]


def _encoder(**more: Any) -> list[dict[str, Any]]:
    """Three sizes of an encoder."""
    rows = [(97, 24, 40, 1, 4, 33), (120, 32, 56, 3, 8, 50), (131, 48, 88, 2, 6, 21)]
    keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings",
    )  # fmt: skip
    return [dict(zip(keys, row, strict=True)) | more for row in rows]


def decoders() -> list[Case]:
    """Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3, Mixtral."""
    cases: list[Case] = []
    for size, tied in zip(range(3), (False, True, False), strict=True):
        plain = _small(tie_word_embeddings=tied)[size]
        for spec, name, config in (
            ("llama", "LlamaForCausalLM", "LlamaConfig"),
            ("llama", "MistralForCausalLM", "MistralConfig"),
            ("llama", "Qwen2ForCausalLM", "Qwen2Config"),
            ("mixtral", "MixtralForCausalLM", "MixtralConfig"),
        ):
            more = {"num_local_experts": 3 + size} if spec == "mixtral" else {}
            cases.append(_hugging(spec, name, config, label=str(size), **plain, **more))
        for spec, name, config in (
            ("llama", "Qwen3ForCausalLM", "Qwen3Config"),
            ("gemma", "GemmaForCausalLM", "GemmaConfig"),
            ("gemma", "Gemma2ForCausalLM", "Gemma2Config"),
            ("gemma", "Gemma3ForCausalLM", "Gemma3TextConfig"),
        ):
            cases.append(_hugging(spec, name, config, label=str(size), **plain, head_dim=8 + 2 * size))
    biased = _small(attention_bias=True, mlp_bias=True)[1]
    cases.append(_hugging("llama", "LlamaForCausalLM", "LlamaConfig", label="biases", **biased))
    return cases


def gpt2() -> list[Case]:
    """GPT-2 with and without its head, three sizes."""
    cases: list[Case] = []
    for size, (width, layers, inner) in enumerate(((24, 1, None), (32, 3, 100), (48, 2, None))):
        options = {
            "vocab_size": 97 + size, "n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 20 + size,
            "n_inner": inner, "bos_token_id": 0, "eos_token_id": 0,
        }  # fmt: skip
        for name in ("GPT2LMHeadModel", "GPT2Model", "GPT2ForSequenceClassification"):
            cases.append(_hugging("gpt2", name, "GPT2Config", label=str(size), **options))
    untied = {
        "vocab_size": 97,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 20,
        "tie_word_embeddings": False,
    }
    cases.append(_hugging("gpt2", "GPT2LMHeadModel", "GPT2Config", label="untied", **untied))
    return cases


def encoders() -> list[Case]:
    """BERT, RoBERTa, DistilBERT with each head."""
    heads = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    more = {"Bert": ("ForPreTraining", "ForNextSentencePrediction", "ForMultipleChoice"), "Roberta": ("ForCausalLM",)}
    cases: list[Case] = []
    for family in ("Bert", "Roberta"):
        for head in (*heads, *more[family]):
            for size, options in enumerate(_encoder(type_vocab_size=2, num_labels=5)):
                if size == 0 or head in heads[:3]:
                    cases.append(
                        _hugging(family.lower(), f"{family}{head}", f"{family}Config", label=str(size), **options)
                    )
    for head in heads:
        for size, (width, layers) in enumerate(((24, 1), (32, 3), (48, 2))):
            options = {
                "vocab_size": 97 + size, "dim": width, "n_layers": layers, "n_heads": 4, "hidden_dim": 40 + 9 * size,
                "max_position_embeddings": 33 + size, "num_labels": 2,
            }  # fmt: skip
            if size == 0 or head in heads[:3]:
                cases.append(
                    _hugging("distilbert", f"DistilBert{head}", "DistilBertConfig", label=str(size), **options)
                )
    return cases


def seq2seq() -> list[Case]:
    """T5 (both versions) and Whisper."""
    cases: list[Case] = []
    for size, (width, layers, decoder) in enumerate(((24, 1, 2), (32, 3, 3), (48, 2, 1))):
        options = {
            "vocab_size": 97 + size, "d_model": width, "d_kv": 5 + size, "d_ff": 40 + 8 * size, "num_layers": layers,
            "num_decoder_layers": decoder, "num_heads": 3 + size,
        }  # fmt: skip
        for name in ("T5ForConditionalGeneration", "T5Model", "T5EncoderModel", "T5ForSequenceClassification"):
            if size == 0 or name != "T5ForSequenceClassification":
                cases.append(_hugging("t5", name, "T5Config", label=str(size), **options))
        gated = {**options, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
        cases.append(_hugging("t5", "T5ForConditionalGeneration", "T5Config", label=f"v1.1-{size}", **gated))
        whisper = {
            "vocab_size": 97 + size, "d_model": width, "encoder_layers": layers, "decoder_layers": decoder,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40 + size,
            "decoder_ffn_dim": 52 + size, "num_mel_bins": 10 + size, "max_source_positions": 30 + size,
            "max_target_positions": 20 + size, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
        }  # fmt: skip
        for name in ("WhisperForConditionalGeneration", "WhisperModel"):
            cases.append(_hugging("whisper", name, "WhisperConfig", label=str(size), **whisper))
    return cases


def clip() -> list[Case]:
    """CLIP and its towers."""
    cases: list[Case] = []
    for size, (width, seen, layers) in enumerate(((24, 32, 1), (32, 48, 3), (48, 24, 2))):
        text = {
            "vocab_size": 97 + size, "hidden_size": width, "intermediate_size": 40 + size, "num_hidden_layers": layers,
            "num_attention_heads": 4, "max_position_embeddings": 33 + size, "projection_dim": 16 + size,
            "bos_token_id": 0, "eos_token_id": 1,
        }  # fmt: skip
        vision = {
            "hidden_size": seen, "intermediate_size": 56 + size, "num_hidden_layers": layers + 1,
            "num_attention_heads": 4, "image_size": 32 + 8 * size, "patch_size": 8, "projection_dim": 16 + size,
        }  # fmt: skip
        both = {"text_config": text, "vision_config": vision, "projection_dim": 16 + size}
        cases.append(_hugging("clip", "CLIPModel", "CLIPConfig", label=str(size), **both))
        cases.append(_hugging("clip", "CLIPForImageClassification", "CLIPConfig", label=str(size), **both))
        for name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            cases.append(_hugging("clip", name, "CLIPTextConfig", label=str(size), **text))
        for name in ("CLIPVisionModel", "CLIPVisionModelWithProjection"):
            cases.append(_hugging("clip", name, "CLIPVisionConfig", label=str(size), **vision))
    return cases


def vision() -> list[Case]:
    """torchvision's ResNets, VGGs and ViTs in all sizes, and transformers' ViT."""
    cases = [_vision("resnet", f"resnet{depth}") for depth in (18, 34, 50, 101, 152)]
    cases += [_vision("resnet", name) for name in ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2")]
    cases.append(_vision("resnet", "resnet18", num_classes=7))
    cases += [_vision("vgg", f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
    cases += [_vision("vit", name) for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_h_14")]
    cases.append(_vision("vit", "vit_b_32", representation_size=64))
    for size, (width, layers) in enumerate(((24, 1), (32, 3), (48, 2))):
        options = {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 40 + size,
            "image_size": 32 + 16 * size, "patch_size": 16, "num_labels": 5 + size,
        }  # fmt: skip
        for name in ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"):
            cases.append(_hugging("vit", name, "ViTConfig", label=str(size), **options))
    return cases


def mlp() -> list[Case]:
    """Fully connected networks in each form."""
    rows = [(784, [512, 256, 128], 10), (20, [30], 5), (8, [16, 16, 24, 12], 3)]
    cases = [
        Case("mlp", f"modules{size}", partial(Mlp, *row), None, dict(zip(MLP_PARAMS, row, strict=True)))
        for size, row in enumerate(rows)
    ]
    for size, row in enumerate(rows):
        for style in ("plain", "dropout", "batch", "layer", "nobias"):
            build = partial(sequential, *row, style)
            cases.append(Case("mlp", f"{style}{size}", build, None, dict(zip(MLP_PARAMS, row, strict=True))))
    return cases


MLP_PARAMS = ("input_size", "hidden_layers", "output_size")


class Mlp(torch.nn.Module):
    """The fully connected network of the classic tutorial: a ModuleList, then an output layer."""

    def __init__(self, input_size: int, hidden_layers: list[int], output_size: int, *, bias: bool = True) -> None:
        super().__init__()
        widths = [input_size, *hidden_layers]
        pairs = pairwise(widths)
        self.hidden_layers = torch.nn.ModuleList(torch.nn.Linear(a, b, bias=bias) for a, b in pairs)
        self.output = torch.nn.Linear(widths[-1], output_size, bias=bias)


def sequential(input_size: int, hidden: list[int], output_size: int, style: str = "plain") -> Any:
    """An ``nn.Sequential``, inside a module where there is normalisation."""
    nn = torch.nn
    between = {
        "plain": lambda width: [nn.ReLU()],
        "nobias": lambda width: [nn.ReLU()],
        "dropout": lambda width: [nn.ReLU(), nn.Dropout()],
        "batch": lambda width: [nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout()],
        "layer": lambda width: [nn.LayerNorm(width), nn.GELU()],
    }[style]
    widths = [input_size, *hidden]
    layers: list[Any] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=style != "nobias"), *between(b)]
    row = nn.Sequential(*layers, nn.Linear(widths[-1], output_size, bias=style != "nobias"))
    return nn.ModuleDict({"net": row}) if style in ("batch", "layer") else row


class LeNet(torch.nn.Module):
    """The network of PyTorch's beginner tutorials."""

    def __init__(self, in_channels: int, channels: list[int], kernel: int, hidden: list[int], side: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(in_channels, channels[0], kernel)
        self.conv2 = torch.nn.Conv2d(channels[0], channels[1], kernel)
        widths = [channels[1] * side * side, *hidden, 10]
        for number, (a, b) in enumerate(pairwise(widths)):
            setattr(self, f"fc{number + 1}", torch.nn.Linear(a, b))


def lenet() -> list[Case]:
    """LeNet-5 for digits, for colour images, and the smaller network of PyTorch's MNIST example."""
    rows = [(1, [6, 16], 5, [120, 84], 4), (3, [6, 16], 5, [120, 84], 5), (1, [32, 64], 3, [128], 12)]
    keys = ("in_channels", "channels", "kernel", "hidden")
    return [
        Case(
            "lenet",
            str(size),
            partial(LeNet, *row),
            None,
            {**dict(zip(keys, row, strict=False)), "features": row[1][1] * row[4] ** 2, "num_classes": 10},
        )
        for size, row in enumerate(rows)
    ]


ALL = [*mlp(), *vision(), *decoders(), *lenet(), *gpt2(), *encoders(), *seq2seq(), *clip()]
