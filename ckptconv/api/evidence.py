"""What a checkpoint's metadata and the configurations beside it say about its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.arch.statements import (
    CONFIG,
    PARAMS,
    QUANTIZATION,
    Statement,
    quantization_method,
    root_statement,
    settings_in,
)
from ckptconv.core.report import Finding
from ckptconv.edits.quantized.config import MLX, mlx_settings
from ckptconv.errors import CkptconvError, UsageError
from ckptconv.formats.trees.omegaconf import is_settings, plain_settings
from ckptconv.io.documents import read_object
from ckptconv.io.folder import folder_of

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode, Opaque

QUANTIZERS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""The files in which AutoGPTQ and AutoAWQ describe the quantization if config.json does not, with the method."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is stated about an architecture.

    statements:   the root of the metadata, then the settings below it, then config.json and params.json beside the
                  file.
    config:       the config.json beside the file; None if there is none.
    quantization: what a quantizer's own file says, if config.json does not say how the weights are quantized.
    """

    statements: tuple[Statement, ...]
    config: dict[str, object] | None
    findings: tuple[Finding, ...]
    quantization: dict[str, object] | None = None

    @property
    def quantization_method(self) -> str:
        """The method by which the weights are said to be quantized; "" if nothing says so."""
        config = self.config or {}
        if mlx_settings(config) is not None:
            return MLX
        return quantization_method(config) or quantization_method({QUANTIZATION: self.quantization})


def gather_evidence(checkpoint: Checkpoint, path: Path) -> Evidence:
    """Collect what the checkpoint at `path` says, and what the files beside it say."""
    metadata = dict(checkpoint.metadata)
    statements = [root_statement(metadata), *settings_in(metadata, _plain)]
    config_path = config_beside(path)
    config, findings = read_json_if_valid(config_path)
    params, more = read_json_if_valid(config_path.with_name(PARAMS))
    for name, document in ((CONFIG, config), (PARAMS, params)):
        if document is not None:
            statements.append(Statement(name, dict[object, object](document.items())))
    quantization = None if config is not None and QUANTIZATION in config else _quantizer_settings(config_path.parent)
    return Evidence(tuple(statements), config, (*findings, *more), quantization)


def _quantizer_settings(folder: Path) -> dict[str, object] | None:
    """The settings in the first file of a quantizer's that lies in the folder."""
    for name, method in QUANTIZERS.items():
        document, _ = read_json_if_valid(folder / name)
        if document is not None:
            return {"quant_method": method, **document}
    return None


def merged_values(checkpoint: Checkpoint) -> dict[object, MetaNode]:
    """Every stated value by its key, wherever it is stated; the first statement of a key counts."""
    values: dict[object, MetaNode] = {**checkpoint.metadata}
    if checkpoint.path is None:
        return values
    evidence = gather_evidence(checkpoint, checkpoint.path)
    for statement in evidence.statements:
        for key, value in statement.values.items():
            values.setdefault(key, value)
    if evidence.quantization is not None:
        values.setdefault(QUANTIZATION, evidence.quantization)
    return values


def check_config(checkpoint: Checkpoint) -> None:
    """Raise CorruptFileError or FileAccessError if the config.json beside the file cannot be read."""
    if checkpoint.path is None:
        return
    read_object(config_beside(checkpoint.path), "the configuration beside the weights", hint="download it again")


def refuse_optimizer_state(checkpoint: Checkpoint, path: Path, hint: str) -> None:
    """Raise UsageError if the file holds nothing but the state of optimizers."""
    if any(finding.code == "optimizer" for finding in checkpoint.findings):
        raise UsageError("this is the state of an optimizer, which no architecture describes", path=path, hint=hint)


def config_beside(path: Path) -> Path:
    """Where a Hugging Face config.json of the checkpoint at `path` would be."""
    return folder_of(path) / CONFIG


def read_json_if_valid(path: Path) -> tuple[dict[str, object] | None, tuple[Finding, ...]]:
    """Read a JSON object; None if there is no such file, or None and a finding if it cannot be read."""
    try:
        return read_object(path, "it", hint=""), ()
    except CkptconvError as error:
        message = f"{path.name} beside the file is passed over: {error.message}"
        return None, (Finding("config", "warning", str(path), message),)


def _plain(node: Opaque) -> MetaNode:
    """OmegaConf's settings as plain data; any other object as it is."""
    return plain_settings(node) if is_settings(node) else node
