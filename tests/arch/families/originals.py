"""Networks with the names of their first releases, which are in no package that is light enough to be installed here.

What is built has the structure of karpathy/nanoGPT (model.py), meta-llama/llama (llama/model.py), openai/whisper
(whisper/model.py), openai/CLIP (clip/model.py), mlfoundations/open_clip (open_clip/model.py), facebookresearch/dinov2
(dinov2/models/vision_transformer.py) and facebookresearch/dinov3 (dinov3/models/vision_transformer.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.arch.real_models import Case, timm_model, torch

nn = torch.nn


def nanogpt() -> list[Case]:
    """nanoGPT with biases and without."""
    sizes: dict[str, Any] = {"vocab_size": 65, "block_size": 12, "n_layer": 2, "n_embd": 8}
    return [
        Case("nanogpt", "biases", partial(nano, **sizes), None, {**sizes, "n_head": 2, "bias": True}),
        Case("nanogpt", "plain", partial(nano, **sizes, bias=False), None, {**sizes, "n_head": 2, "bias": False}),
    ]


def nano(*, vocab_size: int, block_size: int, n_layer: int, n_embd: int, bias: bool = True) -> Any:
    """A GPT of nanoGPT."""

    def norm() -> Any:
        return nn.LayerNorm(n_embd, bias=bias)

    def block() -> Any:
        attention = {"c_attn": nn.Linear(n_embd, 3 * n_embd, bias=bias), "c_proj": nn.Linear(n_embd, n_embd, bias=bias)}
        mlp = {"c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias), "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias)}
        return nn.ModuleDict(
            {"ln_1": norm(), "attn": nn.ModuleDict(attention), "ln_2": norm(), "mlp": nn.ModuleDict(mlp)}
        )

    trunk = {
        "wte": nn.Embedding(vocab_size, n_embd),
        "wpe": nn.Embedding(block_size, n_embd),
        "h": nn.ModuleList(block() for _ in range(n_layer)),
        "ln_f": norm(),
    }
    model = nn.ModuleDict({"transformer": nn.ModuleDict(trunk), "lm_head": nn.Linear(n_embd, vocab_size, bias=False)})
    trunk["wte"].weight = model["lm_head"].weight
    return model


def llama() -> list[Case]:
    """Llama as Meta has it, with fewer key heads and without, tied as in llama2.c, and with other heads as Mistral."""
    sizes: dict[str, Any] = {"vocab_size": 40, "dim": 16, "n_layers": 2, "hidden_dim": 48}
    heads: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 4, "head_dim": 4}
    grouped = {**heads, "n_kv_heads": 2}
    wide: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6}
    return [
        Case("llama_meta", name, partial(meta, **sizes, **each, **more), None, {**sizes, **each})
        for name, each, more in [
            ("first", heads, {}),
            ("grouped", grouped, {}),
            ("tied", grouped, {"tied": True}),
            ("wide", wide, {}),
        ]
    ]


def meta(
    *, vocab_size: int, dim: int, n_layers: int, hidden_dim: int, n_heads: int, n_kv_heads: int, head_dim: int,
    tied: bool = False,
) -> Any:  # fmt: skip
    """A Transformer of Meta's."""

    def linear(before: int, after: int) -> Any:
        return nn.Linear(before, after, bias=False)

    def block() -> Any:
        wide, narrow = n_heads * head_dim, n_kv_heads * head_dim
        attention = {"wq": linear(dim, wide), "wk": linear(dim, narrow), "wv": linear(dim, narrow)}
        attention["wo"] = linear(wide, dim)
        mlp = {"w1": linear(dim, hidden_dim), "w2": linear(hidden_dim, dim), "w3": linear(dim, hidden_dim)}
        return nn.ModuleDict(
            {
                "attention": nn.ModuleDict(attention),
                "feed_forward": nn.ModuleDict(mlp),
                "attention_norm": nn.RMSNorm(dim),
                "ffn_norm": nn.RMSNorm(dim),
            }
        )

    model = nn.ModuleDict({"tok_embeddings": nn.Embedding(vocab_size, dim)})
    model["layers"] = nn.ModuleList(block() for _ in range(n_layers))
    model["norm"] = nn.RMSNorm(dim)
    model["output"] = linear(dim, vocab_size)
    if tied:
        model["tok_embeddings"].weight = model["output"].weight
    return model


def whisper() -> list[Case]:
    """Whisper of two sizes, as many layers on both sides and not."""
    small = {
        "n_mels": 10, "n_audio_ctx": 15, "n_audio_state": 16, "n_audio_head": 4, "n_audio_layer": 2,
        "n_vocab": 40, "n_text_ctx": 9, "n_text_state": 16, "n_text_head": 4, "n_text_layer": 2,
    }  # fmt: skip
    turbo = {**small, "n_text_state": 24, "n_text_layer": 1, "n_audio_layer": 3}
    return [
        Case("whisper_openai", name, partial(spoken, **each), None, each)
        for name, each in {"small": small, "turbo": turbo}.items()
    ]


def spoken(**dims: int) -> Any:
    """A Whisper of OpenAI's."""

    def attention(width: int) -> Any:
        parts = {name: nn.Linear(width, width, bias=name != "key") for name in ("query", "key", "value", "out")}
        return nn.ModuleDict(parts)

    def block(width: int, *, crossed: bool) -> Any:
        parts = {"attn": attention(width), "attn_ln": nn.LayerNorm(width)}
        if crossed:
            parts |= {"cross_attn": attention(width), "cross_attn_ln": nn.LayerNorm(width)}
        parts["mlp"] = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        return nn.ModuleDict({**parts, "mlp_ln": nn.LayerNorm(width)})

    audio, text = dims["n_audio_state"], dims["n_text_state"]
    encoder = nn.ModuleDict({"conv1": nn.Conv1d(dims["n_mels"], audio, 3), "conv2": nn.Conv1d(audio, audio, 3)})
    encoder.register_buffer("positional_embedding", torch.ones(dims["n_audio_ctx"], audio))
    encoder["blocks"] = nn.ModuleList(block(audio, crossed=False) for _ in range(dims["n_audio_layer"]))
    encoder["ln_post"] = nn.LayerNorm(audio)
    decoder = nn.ModuleDict({"token_embedding": nn.Embedding(dims["n_vocab"], text)})
    decoder.register_parameter("positional_embedding", nn.Parameter(torch.ones(dims["n_text_ctx"], text)))
    decoder["blocks"] = nn.ModuleList(block(text, crossed=True) for _ in range(dims["n_text_layer"]))
    decoder["ln"] = nn.LayerNorm(text)
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


def openclip() -> list[Case]:
    """CLIP with a transformer and with a ResNet for pictures, SigLIP, and CLIP's text beside networks of timm's."""
    text: dict[str, Any] = {"vocab": 40, "positions": 9, "width": 16, "layers": 2, "embed": 12}
    small = {"embed_dim": 48, "depth": 1, "num_heads": 3}
    towers: dict[str, tuple[Any, dict[str, Any]]] = {
        "vit": (partial(transformer_tower, width=24, layers=2, embed=12), {}),
        "resnet": (partial(resnet_tower, channels=8, depths=[1, 2, 1, 1], embed=12), {}),
        "siglip": (partial(trunk, "vit_base_patch16_siglip_224", **small), {"prefix": "text.", "linear": True}),
        "eva": (partial(trunk, "eva02_base_patch16_clip_224", **small, num_classes=12), {"prefix": "text."}),
        "convnext": (
            partial(trunk, "convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=0, embed=12),
            {},
        ),
    }
    return [
        Case("openclip", name, partial(contrastive, tower, **text, **more)) for name, (tower, more) in towers.items()
    ]


def residual(width: int) -> Any:
    """A layer of OpenAI's transformer."""
    mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
    parts = {"attn": nn.MultiheadAttention(width, 2), "ln_1": nn.LayerNorm(width), "mlp": mlp}
    return nn.ModuleDict({**parts, "ln_2": nn.LayerNorm(width)})


def stacked(width: int, layers: int) -> Any:
    return nn.ModuleDict({"resblocks": nn.ModuleList(residual(width) for _ in range(layers))})


def contrastive(
    tower: Any, *, vocab: int, positions: int, width: int, layers: int, embed: int, prefix: str = "",
    linear: bool = False,
) -> Any:  # fmt: skip
    """A CLIP, or with `linear` a SigLIP."""
    text = nn.ModuleDict({"transformer": stacked(width, layers), "token_embedding": nn.Embedding(vocab, width)})
    text["ln_final"] = nn.LayerNorm(width)
    text.register_parameter("positional_embedding", nn.Parameter(torch.ones(positions, width)))
    if linear:
        text["text_projection"] = nn.Linear(width, embed)
    else:
        text.register_parameter("text_projection", nn.Parameter(torch.ones(width, embed)))
    model = nn.ModuleDict({"text": text}) if prefix else text
    model["visual"] = tower()
    for name in ("logit_scale", "logit_bias")[: 2 if linear else 1]:
        model.register_parameter(name, nn.Parameter(torch.ones(())))
    return model


def transformer_tower(*, width: int, layers: int, embed: int) -> Any:
    """CLIP's VisionTransformer."""
    tower = nn.ModuleDict({"conv1": nn.Conv2d(3, width, 8, bias=False), "transformer": stacked(width, layers)})
    tower["ln_pre"], tower["ln_post"] = nn.LayerNorm(width), nn.LayerNorm(width)
    for name, shape in (("class_embedding", (width,)), ("positional_embedding", (17, width)), ("proj", (width, embed))):
        tower.register_parameter(name, nn.Parameter(torch.ones(shape)))
    return tower


def resnet_tower(*, channels: int, depths: list[int], embed: int) -> Any:
    """CLIP's ModifiedResNet: three convolutions at first, attention at last."""

    def layer(before: int, after: int, kernel: int, number: int) -> dict[str, Any]:
        conv = nn.Conv2d(before, after, kernel, bias=False)
        return {f"conv{number}": conv, f"bn{number}": nn.BatchNorm2d(after)}

    def block(before: int, planes: int, *, first: bool) -> Any:
        parts = layer(before, planes, 1, 1) | layer(planes, planes, 3, 2) | layer(planes, 4 * planes, 1, 3)
        if first:
            shortcut = {"0": nn.Conv2d(before, 4 * planes, 1, bias=False), "1": nn.BatchNorm2d(4 * planes)}
            parts["downsample"] = nn.ModuleDict(shortcut)
        return nn.ModuleDict(parts)

    half = channels // 2
    parts = layer(3, half, 3, 1) | layer(half, half, 3, 2) | layer(half, channels, 3, 3)
    before = channels
    for stage, depth in enumerate(depths):
        planes = channels * 2**stage
        parts[f"layer{stage + 1}"] = nn.ModuleList(
            block(before if at == 0 else 4 * planes, planes, first=at == 0) for at in range(depth)
        )
        before = 4 * planes
    pool = nn.ModuleDict({f"{name}_proj": nn.Linear(before, before) for name in ("q", "k", "v")})
    pool["c_proj"] = nn.Linear(before, embed)
    pool.register_parameter("positional_embedding", nn.Parameter(torch.ones(5, before)))
    return nn.ModuleDict({**parts, "attnpool": pool})


def trunk(name: str, *, embed: int = 0, **options: Any) -> Any:
    """A network of timm's, and what OpenCLIP has behind it."""
    network = timm_model(name, **options)
    head = {"head": nn.ModuleDict({"proj": nn.Linear(options["dims"][-1], embed, bias=False)})} if embed else {}
    return nn.ModuleDict({"trunk": network, **head})


def dino() -> list[Case]:
    """DINOv2 with registers and without, of plain and of gated MLPs; DINOv3 with biases and without."""
    return [
        Case("dinov2_meta", "plain", partial(dinov2, registers=0, gated=False)),
        Case("dinov2_meta", "registers", partial(dinov2, registers=4, gated=True)),
        Case("dinov3_meta", "plain", partial(dinov3, biased=True, gated=False)),
        Case("dinov3_meta", "seven", partial(dinov3, biased=False, gated=True)),
    ]


def tower(tokens: dict[str, tuple[int, ...]], blocks: list[Any], **parts: Any) -> Any:
    """A vision transformer of 16 channels: its tokens, patches of 4 by 4, blocks and a norm."""
    model = nn.ModuleDict({"patch_embed": nn.ModuleDict({"proj": nn.Conv2d(3, 16, 4, 4)}), **parts})
    for name, shape in tokens.items():
        model.register_parameter(name, nn.Parameter(torch.empty(shape)))
    model["blocks"], model["norm"] = nn.ModuleList(blocks), nn.LayerNorm(16)
    return model


def scale() -> Any:
    """A LayerScale."""
    made = nn.Module()
    made.gamma = nn.Parameter(torch.empty(16))
    return made


def dino_block(qkv: Any, mlp: dict[str, Any]) -> Any:
    attention = nn.ModuleDict({"qkv": qkv, "proj": nn.Linear(16, 16)})
    parts = {"norm1": nn.LayerNorm(16), "attn": attention, "ls1": scale(), "norm2": nn.LayerNorm(16)}
    return nn.ModuleDict({**parts, "mlp": nn.ModuleDict(mlp), "ls2": scale()})


def dinov2(*, registers: int, gated: bool) -> Any:
    """A DinoVisionTransformer of DINOv2's."""
    tokens = {"cls_token": (1, 1, 16), "pos_embed": (1, 10, 16), "mask_token": (1, 16)}
    if registers:
        tokens["register_tokens"] = (1, registers, 16)

    def mlp() -> dict[str, Any]:
        if gated:
            return {"w12": nn.Linear(16, 48), "w3": nn.Linear(24, 16)}
        return {"fc1": nn.Linear(16, 64), "fc2": nn.Linear(64, 16)}

    return tower(tokens, [dino_block(nn.Linear(16, 48), mlp()) for _ in range(2)])


def dinov3(*, biased: bool, gated: bool) -> Any:
    """A DinoVisionTransformer of DINOv3's; the largest has no biases in its attention."""
    tokens = {"cls_token": (1, 1, 16), "storage_tokens": (1, 4, 16), "mask_token": (1, 16)}

    def qkv() -> Any:
        made = nn.Linear(16, 48, bias=biased)
        if biased:
            made.register_buffer("bias_mask", torch.empty(48))
        return made

    def mlp() -> dict[str, Any]:
        if gated:
            return {"w1": nn.Linear(16, 40), "w2": nn.Linear(16, 40), "w3": nn.Linear(40, 16)}
        return {"fc1": nn.Linear(16, 64), "fc2": nn.Linear(64, 16)}

    rope = nn.Module()
    rope.register_buffer("periods", torch.empty(2))
    more = {"local_cls_norm": nn.LayerNorm(16)} if gated else {}
    return tower(tokens, [dino_block(qkv(), mlp()) for _ in range(2)], rope_embed=rope, **more)
