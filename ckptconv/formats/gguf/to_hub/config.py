"""config.json from a GGUF's metadata and tensors.

The table (configs.toml) and `architectures` propose it; to-gguf is the proof: of the configuration it must make the
entries that the file has. An entry that comes out otherwise is refused by name, and one that it knows nothing of is
reported. So no configuration is written that says something else than the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed
from ckptconv.edits.dialects.gguf_config import architecture, written_as
from ckptconv.edits.dialects.gguf_table import architectures
from ckptconv.errors import CorruptFileError, EditError, UnsupportedError
from ckptconv.formats.gguf.filetype import FILE_TYPE_KEY, VERSION_KEY
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.hyperparameters import hyperparameters
from ckptconv.formats.gguf.to_hub.architectures import SPECIFIC
from ckptconv.formats.gguf.to_hub.rope import FREQS, LONG, SHORT, rope_scaling
from ckptconv.formats.gguf.to_hub.said import WEIGHTS_ALONE, bad, plain, single
from ckptconv.formats.gguf.to_hub.special import special_ids
from ckptconv.formats.gguf.to_hub.table import rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.formats.gguf.to_hub.said import Said
    from ckptconv.formats.gguf.to_hub.table import Row

_ROLES = ("bos", "eos", "pad")
_WHOLE = {"vocab_size"}
"""Entries that the tensors outrank."""
_BASE = 10000.0
"""llama.cpp's base of rotary frequencies, where a file says none."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A configuration, and what of the file it says.

    keys:     the metadata that it says, and that need not be kept beside it.
    tensors:  the tensors that it says, which transformers computes of it.
    outside:  what other tensors' names have, and its class has not: the language model's place in another model.
    """

    values: dict[str, Any]
    keys: frozenset[str]
    tensors: tuple[str, ...]
    outside: str
    findings: tuple[Finding, ...]


def restore_config(said: Said) -> Restored:
    """The configuration of the model in a GGUF.

    Raises UnsupportedError for an architecture or a value that has no configuration, CorruptFileError for metadata that
    makes no model.
    """
    row = rows().get(said.arch)
    if row is None:
        what = "only the weights" if said.arch in architectures() else "not even the weights"
        raise UnsupportedError(
            f"no {CONFIG} can be made for the architecture {said.arch[:80]!r}, of which {what} are translated",
            hint=WEIGHTS_ALONE,
        )
    config = _proposed(said, row)
    made = _entries_of(config, said)
    _refuse_others(said, row, config, made)
    factors = tuple(name for name in (FREQS, LONG, SHORT) if name in said.tensors)
    keys = {said.key(name) for name in made} | said.used | {FILE_TYPE_KEY, VERSION_KEY}
    keys |= {key for key in map(str, said.metadata) if _is_idle(row, key.removeprefix(f"{said.arch}."))}
    findings = (*_unsaid(said, keys), *_assumed(said, row, config))
    return Restored(config, frozenset(keys), factors, row.outside, findings)


def _proposed(said: Said, row: Row) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [row.cls], "model_type": row.model_type, "vocab_size": said.rows}
    for key, name in row.keys.items():
        value = said.get(name)
        if value is None:
            value = _by_llama_cpp(said, name)
        if value is not None:
            config[key] = value
    config = row.absent | dict.fromkeys(row.none) | config
    config |= row.says | {flag: said.has_part(part) for flag, part in row.has.items()}
    if row.cls.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        config["tie_word_embeddings"] = said.is_tied
    config |= _token_ids(said, row)
    _add_rotary(said, row, config)
    if specific := SPECIFIC.get(said.arch):
        specific(said, config)
    try:
        json.dumps(config, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise bad(f"the metadata makes no {CONFIG}: {error}") from error
    return config


def _token_ids(said: Said, row: Row) -> dict[str, int | None]:
    """The ids of special tokens; null where the file says none, so that no class's own are taken for them."""
    ids = special_ids(said)
    roles = _ROLES if row.model_type != "t5" else [role for role in _ROLES if role in ids]
    return {f"{role}_token_id": ids.get(role) for role in roles}


def _by_llama_cpp(said: Said, name: str) -> Any:
    """What llama.cpp takes where a file does not say it; None if it takes nothing."""
    match name:
        case "attention.head_count_kv":
            return said.heads
        case "attention.key_length":
            return said.head_width
        case "rope.freq_base":
            return _BASE
    return None


def _add_rotary(said: Said, row: Row, config: dict[str, Any]) -> None:
    """Add how positions are scaled, and the part of a head that is turned."""
    if not {"rope.freq_base", "rope.freq_base_swa"} & {*row.keys.values()}:
        return
    scaling = rope_scaling(said)
    if row.rotary:
        turned, width = said.positive("rope.dimension_count", said.head_width), said.head_width
        config[row.rotary] = _fraction(turned, width)
    if row.rope == "parameters":
        rope = {"rope_type": "default"} | scaling | {"rope_theta": config.pop("rope_theta")}
        config["rope_parameters"] = rope | {key: config[key] for key in (row.rotary,) if key}
    elif scaling:
        config["rope_scaling"] = scaling


def _fraction(part: int, whole: int) -> float:
    """The number with the fewest digits of which `whole` times is `part`, rounded down."""
    for digits in range(1, 18):
        short = float(f"{part / whole:.{digits}g}")
        if int(short * whole) == part:
            return short
    return part / whole


def _entries_of(config: dict[str, Any], said: Said) -> dict[str, Any]:
    """What to-gguf makes of the configuration, without the architecture's name."""
    read = Config(config)
    try:
        arch = architecture(read.values)
        made = hyperparameters(arch, read, infos_of(said.tensors), [])
        prefix = written_as(arch, read.values)
    except (CorruptFileError, EditError, UnsupportedError) as error:
        message = str(error).removeprefix("--translate to-gguf: ").removeprefix(f"{CONFIG}: ")
        raise UnsupportedError(f"its metadata makes no {CONFIG}: {message}", hint=WEIGHTS_ALONE) from error
    return {key.removeprefix(f"{prefix}."): plain(value) for key, (_, value) in made.items()}


def _refuse_others(said: Said, row: Row, config: dict[str, Any], made: Mapping[str, Any]) -> None:
    """Raise UnsupportedError if the file says something else than the configuration."""
    for name, value in made.items():
        stated = said.metadata.get(said.key(name))
        if stated is None or name in _WHOLE | said.idle or _is_idle(row, name) or _same(plain(stated), value):
            continue
        raise UnsupportedError(
            f"no {CONFIG} can say {said.key(name)} = {str(plain(stated))[:60]}: a {config['architectures'][0]} "
            f"computes with {str(value)[:60]}",
            hint=WEIGHTS_ALONE,
        )


def _is_idle(row: Row, name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in row.idle)


def _same(stated: Any, made: Any) -> bool:
    if isinstance(stated, int | float) and isinstance(made, int | float):
        return single(float(stated)) == single(float(made))
    return bool(stated == made)


def _unsaid(said: Said, keys: set[str]) -> list[Finding]:
    """A warning about entries of the architecture that nothing in a configuration stands for."""
    left = [str(key) for key in said.metadata if str(key).startswith(f"{said.arch}.") and key not in keys]
    left = [key for key in left if not _means_nothing(said, key)]
    if not left:
        return []
    message = f"{CONFIG} has no place for what the file says as {listed(left, 6)}"
    return [Finding("config", "warning", CONFIG, message)]


def _means_nothing(said: Said, key: str) -> bool:
    """Whether an entry says what holds without it."""
    value = said.metadata[key]
    match key.removeprefix(f"{said.arch}."):
        case "rope.scaling.type":
            return value == "none"
        case "rope.scaling.factor":
            return value in (0, 1)
        case "attention.key_length" | "attention.value_length" | "rope.dimension_count":
            return value == said.head_width
        case "vocab_size" | "pooling_type" | "attention.causal" | "rope.scaling.finetuned":
            return True
        case "expert_count" | "expert_used_count" | "attention.max_alibi_bias":
            return not value
    return False


def _assumed(said: Said, row: Row, config: Mapping[str, Any]) -> Iterator[Finding]:
    """What the file does not say, and transformers' default, or that of the model's family, is taken for."""
    stated = {*config, *config.get("rope_parameters", ())}
    lacking = [key for key in row.keys if key not in stated]
    lacking += ["mixer_rms_eps"] if config["model_type"] == "falcon_mamba" else []
    if lacking:
        message = f"the file does not say {listed(lacking, 6)}: transformers' own values hold"
        yield Finding("assumed", "info", CONFIG, message)
    for known in said.known:
        yield Finding("assumed", "info", CONFIG, f"the file does not say {known}, as all {said.arch} models have it")
