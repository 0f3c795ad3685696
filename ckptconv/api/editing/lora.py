"""Adapters: opening them, and what is reported about merging them.

An adapter is a checkpoint like any other. What its tensors do not say is in PEFT's ``adapter_config.json`` beside
them, or in the metadata: ``lora_adapter_metadata`` is what diffusers puts there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckptconv.api.open import open
from ckptconv.core import strict_json
from ckptconv.core.metadata import RUNS, Opaque, nodes_of
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural
from ckptconv.edits.adapters.inside import is_inside
from ckptconv.edits.adapters.names import is_adapter, is_loralib
from ckptconv.errors import COPY_AGAIN, CkptconvError, UnsafeError, UsageError
from ckptconv.io.documents import read_object
from ckptconv.io.folder import folder_of
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.edits.adapters.adapter import Adapter, Merge
    from ckptconv.edits.adapters.config import Config
    from ckptconv.edits.adapters.summary import Summary

ADAPTER_CONFIG = "adapter_config.json"
IN_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter to merge: its file or folder, and the factor for its change (None: 1).

    If nothing states the adapter's own scale, lora_alpha / r, the factor takes its place.
    """

    path: str | os.PathLike[str]
    scale: float | None = None

    @classmethod
    def parse(cls, text: str) -> Lora:
        """``ADAPTER`` or ``ADAPTER=SCALE``, split at the last ``=``. Raises UsageError."""
        path, equals, number = text.rpartition("=")
        if not equals or os.path.exists(text):
            return cls(text)
        if not path:
            raise UsageError(f"--lora {text!r} names no adapter", hint="--lora ADAPTER=0.8")
        try:
            scale = float(number)
        except ValueError:
            if "/" in number or os.sep in number:  # the = is in the name of a folder, which does not exist
                return cls(text)
            raise UsageError(f"--lora {text!r}: {number!r} is not a number", hint="--lora ADAPTER=0.8") from None
        return cls(path, scale)

    @property
    def label(self) -> str:
        """The command-line option that asks for it."""
        return f"--lora {self.text!r}"

    @property
    def text(self) -> str:
        """The option's value, as a user types it."""
        return os.fspath(self.path) + ("" if self.scale is None else f"={self.scale!r}".removesuffix(".0"))


def open_adapter(path: str | os.PathLike[str]) -> Checkpoint:
    """Open an adapter's file or folder; its adapter_config.json stands for the folder."""
    text = os.fspath(path)
    checkpoint = open(os.path.dirname(text) or "." if os.path.basename(text) == ADAPTER_CONFIG else path)
    roots = (checkpoint.root, *checkpoint.notes.unseen)
    if any(node.how in RUNS for root in roots for node in nodes_of(root, Opaque)):
        checkpoint.close()
        raise UnsafeError(
            "loading this file with pickle would run code", path=path,
            hint="ckptconv convert ADAPTER PLAIN.safetensors --bare takes its tensors alone",
        )  # fmt: skip
    return checkpoint


def adapter_of(checkpoint: Checkpoint, label: str) -> Adapter:
    """A checkpoint as the adapter that it is. Raises CorruptFileError, UnsupportedError."""
    from ckptconv.edits.adapters import llama_cpp  # imported late: most files are not adapters
    from ckptconv.edits.adapters.adapter import Adapter
    from ckptconv.edits.dialects.gguf_table import is_gguf_adapter

    if is_gguf_adapter(checkpoint.metadata):
        config = llama_cpp.config(checkpoint.metadata)
        return Adapter.of(label, llama_cpp.renamed(checkpoint.all_tensors), {"": config})
    return Adapter.of(label, checkpoint.all_tensors, _configs_of(checkpoint))


def summary_of(checkpoint: Checkpoint) -> Summary | None:
    """A summary of a checkpoint that is an adapter; None for others."""
    if not _is_peft_adapter(checkpoint.path) and not is_adapter(checkpoint) and not is_inside(checkpoint):
        return None
    from ckptconv.edits.adapters.summary import summary, unread

    try:
        return summary(adapter_of(checkpoint, ""), checkpoint.metadata)
    except CkptconvError as error:
        return unread(error.message)


def _is_peft_adapter(path: Path | None) -> bool:
    """Whether it is a folder, or a file with PEFT's name, and PEFT's configuration is there."""
    if path is None or not (path.is_dir() or path.name.startswith("adapter_model")):
        return False
    return _config_path(path).is_file()


def _config_path(path: Path) -> Path:
    return folder_of(path) / ADAPTER_CONFIG


def _configs_of(checkpoint: Checkpoint) -> dict[str, Config]:
    """The adapter's configurations, each by the prefix of the names that it is about. Raises CorruptFileError."""
    from ckptconv.edits.adapters.config import Config  # imported late: it compiles patterns

    document = None
    if checkpoint.path is not None:
        document = read_object(_config_path(checkpoint.path), ADAPTER_CONFIG, hint=COPY_AGAIN)
    if document is None and (text := _config_in_archive(checkpoint)) is not None:
        document = strict_json.object_of(text, ADAPTER_CONFIG, hint=COPY_AGAIN)
    if document is not None:
        return {"": Config.of(document)}
    in_metadata = checkpoint.metadata.get(IN_METADATA)
    if not isinstance(in_metadata, str):
        return {}
    by_prefix: dict[str, dict[str, object]] = {}
    for key, value in strict_json.object_of(in_metadata, IN_METADATA, hint=COPY_AGAIN).items():
        component, dot, setting = key.partition(".")
        if dot:
            by_prefix.setdefault(f"{component}.", {})[setting] = value
    return {prefix: Config.of(settings) for prefix, settings in by_prefix.items()}


def _config_in_archive(checkpoint: Checkpoint) -> str | None:
    """The text of the configuration beside an adapter in an archive; None if there is none."""
    from ckptconv.formats.beside.members import MODEL
    from ckptconv.io.archive import MemberFolder

    model = next((member.name for member in checkpoint.notes.members if member.use == MODEL), None)
    if model is not None:
        text = checkpoint.metadata.get(str(PurePosixPath(model).with_name(ADAPTER_CONFIG)))
        return text if isinstance(text, str) else None
    file = checkpoint.file
    folder = file if isinstance(file, MemberFolder) else getattr(file, "beside", None)
    if not isinstance(folder, MemberFolder) or ADAPTER_CONFIG not in folder.names:
        return None
    return folder.text(ADAPTER_CONFIG, MAX_CONFIG)


def merge_findings(lora: Lora, adapter: Adapter, result: Merge) -> list[Finding]:
    """What to report about an adapter that was merged."""
    path = os.fspath(lora.path)
    kinds = ", ".join(f"{kind} ×{count:,}" for kind, count in adapter.kinds.items())
    times = f", times {lora.scale:g}" if lora.scale not in (None, 1) else ""
    count = len(result.changed)
    message = f"{path}: {plural(count, 'tensor is', 'tensors are')} changed ({kinds}){times}"
    if result.prefix and result.changed:
        where = f"without {result.prefix[1:]!r}" if result.prefix.startswith("-") else f"behind {result.prefix!r}"
        message += f"; the base has its names {where}"
    findings = [Finding("merged", "info", path, message, None, str(count))] if count or not result.replaced else []
    if is_loralib(adapter.tensors) and not adapter.configs and lora.scale is None:
        text = (
            f"{path}: nothing says its alpha, so it is merged with scale 1; loralib scales by lora_alpha / r: "
            "--lora ADAPTER=SCALE sets that"
        )
        findings.append(Finding("no-alpha", "warning", path, text))
    for what, names in (("take the place of the base's", result.replaced), ("are new", result.added)):
        if names:
            text = f"{path}: {len(names):,} of its tensors {what}: {listed(names, 3)}"
            findings.append(Finding("merged-whole", "info", names[0], text, None, str(len(names))))
    for name, rows in result.resized.items():
        text = f"{name} has other rows now, {rows}: vocab_size in the config.json has to follow"
        findings.append(Finding("resized", "warning", name, text))
    for what, lost in result.absent.items():
        text = f"{path}: {lost:,} modules are for {what}, of which the base has nothing; they are left out"
        findings.append(Finding("not-merged", "warning", path, text, None, str(lost)))
    return findings
