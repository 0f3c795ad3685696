"""What a checkpoint's metadata says of its architecture, and a config.json beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG, PARAMS, QUANTIZATION, Statement, method_of, root_statement, settings_in
from ckptconv.core.report import Finding
from ckptconv.edits.quantized.config import MLX, mlx_said
from ckptconv.errors import CkptconvError
from ckptconv.formats.trees.omegaconf import is_settings, plain_settings
from ckptconv.io.documents import read_object
from ckptconv.io.folder import folder_of

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode, Opaque

QUANTIZERS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files in which AutoGPTQ and AutoAWQ say how weights are quantized, beside a config.json that does not, by method."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What is said.

    statements: the root of the metadata, the settings below it, a config.json and a params.json beside the file.
    config:     the configuration beside the file, None where there is none.
    quantization: how the weights are quantized, where a file of the quantizer's own says it and the configuration not.
    """

    statements: tuple[Statement, ...]
    config: dict[str, object] | None
    findings: tuple[Finding, ...]
    quantization: dict[str, object] | None = None

    @property
    def quantized(self) -> str:
        """The method by which the weights are said to be quantized; "" where nothing is said of that."""
        config = self.config or {}
        if mlx_said(config) is not None:
            return MLX
        return method_of(config) or method_of({QUANTIZATION: self.quantization})


def stated(checkpoint: Checkpoint, path: Path) -> Stated:
    """What the checkpoint of this path says, and what lies beside it."""
    metadata = dict(checkpoint.metadata)
    statements = [root_statement(metadata), *settings_in(metadata, _plain)]
    beside = config_beside(path)
    config, findings = read_json(beside)
    params, more = read_json(beside.with_name(PARAMS))
    for name, document in ((CONFIG, config), (PARAMS, params)):
        if document is not None:
            statements.append(Statement(name, dict[object, object](document.items())))
    return Stated(tuple(statements), config, (*findings, *more), _quantization(config, beside))


def _quantization(config: dict[str, object] | None, beside: Path) -> dict[str, object] | None:
    if config is not None and QUANTIZATION in config:
        return None
    for name, method in QUANTIZERS.items():
        document, _ = read_json(beside.with_name(name))
        if document is not None:
            return {"quant_method": method, **document}
    return None


def said_anywhere(checkpoint: Checkpoint) -> dict[object, MetaNode]:
    """All that is said, by its key, whatever the place; what is said first counts."""
    said: dict[object, MetaNode] = {**checkpoint.metadata}
    if checkpoint.path is None:
        return said
    found = stated(checkpoint, checkpoint.path)
    for statement in found.statements:
        for key, value in statement.values.items():
            said.setdefault(key, value)
    if found.quantization is not None:
        said.setdefault(QUANTIZATION, found.quantization)
    return said


def check_config(checkpoint: Checkpoint) -> None:
    """Raise CorruptFileError, FileAccessError for a configuration that lies beside the file and cannot be read."""
    if checkpoint.path is None:
        return
    read_object(config_beside(checkpoint.path), "the configuration beside the weights", hint="download it again")


def config_beside(path: Path) -> Path:
    """Where a Hugging Face configuration of that checkpoint would be."""
    return folder_of(path) / CONFIG


def read_json(path: Path) -> tuple[dict[str, object] | None, tuple[Finding, ...]]:
    """As `read_object`, where a file that cannot be read is passed over, with a finding."""
    try:
        return read_object(path, "it", hint=""), ()
    except CkptconvError as error:
        message = f"{path.name} beside the file is passed over: {error.message}"
        return None, (Finding("config", "warning", str(path), message),)


def _plain(node: Opaque) -> MetaNode:
    return plain_settings(node) if is_settings(node) else node
