"""Adapters: opened for merging, and what is reported about them.

An adapter is a checkpoint like any other. What its tensors do not say is in PEFT's ``adapter_config.json`` beside
them, or in the metadata: ``lora_adapter_metadata`` is what diffusers puts there.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckptconv.api.open import open
from ckptconv.core import strict_json
from ckptconv.core.metadata import RUNS, Opaque, nodes_of
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural
from ckptconv.edits.adapters.inside import is_inside
from ckptconv.edits.adapters.names import are_loralibs, is_adapter
from ckptconv.errors import COPY_AGAIN, CkptconvError, UnsafeError, UsageError, located
from ckptconv.io.documents import read_object
from ckptconv.io.folder import folder_of
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.adapter import Adapter, Merge
    from ckptconv.edits.adapters.config import Config
    from ckptconv.edits.adapters.summary import Summary

ADAPTER_CONFIG = "adapter_config.json"
IN_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter that is merged on the way: its file or folder, and by what its change is multiplied (None: 1).

    A number also stands for the scale of an adapter of which nothing says that: lora_alpha / r.
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
            if "/" in number or os.sep in number:  # the sign is in the name of a folder that is not there
                return cls(text)
            raise UsageError(f"--lora {text!r}: {number!r} is not a number", hint="--lora ADAPTER=0.8") from None
        return cls(path, scale)

    @property
    def label(self) -> str:
        """The option that asks for it."""
        return f"--lora {self.text!r}"

    @property
    def text(self) -> str:
        """As it is typed."""
        return os.fspath(self.path) + ("" if self.scale is None else f"={self.scale!r}".removesuffix(".0"))


class Adapters:
    """The adapters that a conversion merges, open until it is done. A context manager."""

    def __init__(self, wanted: Iterable[object]) -> None:
        self._wanted = [one for one in wanted if isinstance(one, Lora)]
        self._files = ExitStack()
        self._opened: dict[int, tuple[Checkpoint, Adapter]] = {}

    def __enter__(self) -> Adapters:
        try:
            for one in self._wanted:
                checkpoint = self._files.enter_context(_open_adapter(one.path))
                with located(one.path):
                    self._opened[id(one)] = checkpoint, adapter_of(checkpoint, one.label)
        except BaseException:
            self._files.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if one of them was written to since it was opened."""
        for checkpoint, _ in self._opened.values():
            checkpoint.check_unchanged()

    def merged(self, wanted: Lora, tensors: Mapping[str, LazyTensor]) -> tuple[Merge, list[Finding]]:
        """The tensors with an adapter merged, and what is reported about it. Raises as `merge`, with the adapter
        named.
        """
        from ckptconv.edits.adapters.merge import merge

        _, adapter = self._opened[id(wanted)]
        if wanted.scale is not None and not isfinite(wanted.scale):
            raise UsageError(f"{wanted.label}: {wanted.scale} is not a scale", hint="--lora ADAPTER=0.8")
        with located(wanted.path):
            made = merge(tensors, adapter, wanted.scale)
        return made, _findings(wanted, adapter, made)


def _open_adapter(path: str | os.PathLike[str]) -> Checkpoint:
    """Its file or folder; the configuration in the folder stands for the folder."""
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
    """The adapter that a checkpoint is. Raises CorruptFileError, UnsupportedError."""
    from ckptconv.edits.adapters import llama_cpp  # most files are none
    from ckptconv.edits.adapters.adapter import Adapter
    from ckptconv.edits.dialects.gguf_table import is_gguf_adapter

    if is_gguf_adapter(checkpoint.metadata):
        config = llama_cpp.config(checkpoint.metadata)
        return Adapter.of(label, llama_cpp.renamed(checkpoint.all_tensors), {"": config})
    return Adapter.of(label, checkpoint.all_tensors, _configs_of(checkpoint))


def summary_of(checkpoint: Checkpoint) -> Summary | None:
    """A summary of a checkpoint that is an adapter; None for others."""
    if not _is_of_peft(checkpoint.path) and not is_adapter(checkpoint) and not is_inside(checkpoint):
        return None
    from ckptconv.edits.adapters.summary import summary, unread

    try:
        return summary(adapter_of(checkpoint, ""), checkpoint.metadata)
    except CkptconvError as error:
        return unread(error.message)


def _is_of_peft(path: Path | None) -> bool:
    """Whether a file, or that of a folder, has PEFT's name, and its configuration is there."""
    return path is not None and (path.is_dir() or path.name.startswith("adapter_model")) and _config_of(path).is_file()


def _config_of(path: Path) -> Path:
    return folder_of(path) / ADAPTER_CONFIG


def _configs_of(checkpoint: Checkpoint) -> dict[str, Config]:
    """What is said of it, by what the names begin with that it is for. Raises CorruptFileError."""
    from ckptconv.edits.adapters.config import Config  # with its patterns; most files are no adapter

    beside = None
    if checkpoint.path is not None:
        beside = read_object(_config_of(checkpoint.path), ADAPTER_CONFIG, hint=COPY_AGAIN)
    if beside is None and (packed := _packed(checkpoint)) is not None:
        beside = strict_json.object_of(packed, ADAPTER_CONFIG, hint=COPY_AGAIN)
    if beside is not None:
        return {"": Config.of(beside)}
    text = checkpoint.metadata.get(IN_METADATA)
    if not isinstance(text, str):
        return {}
    said = strict_json.object_of(text, IN_METADATA, hint=COPY_AGAIN)
    parts: dict[str, dict[str, object]] = {}
    for key, value in said.items():
        start, dot, rest = key.partition(".")
        if dot:
            parts.setdefault(f"{start}.", {})[rest] = value
    return {start: Config.of(part) for start, part in parts.items()}


def _packed(checkpoint: Checkpoint) -> str | None:
    """The configuration beside an adapter in an archive; None if there is none."""
    from ckptconv.formats.beside.members import MODEL
    from ckptconv.io.archive import MemberFolder

    model = next((one.name for one in checkpoint.notes.members if one.use == MODEL), None)
    if model is not None:
        text = checkpoint.metadata.get(str(PurePosixPath(model).with_name(ADAPTER_CONFIG)))
        return text if isinstance(text, str) else None
    file = checkpoint.file
    folder = file if isinstance(file, MemberFolder) else getattr(file, "beside", None)
    if not isinstance(folder, MemberFolder) or ADAPTER_CONFIG not in folder.names:
        return None
    return folder.text(ADAPTER_CONFIG, MAX_CONFIG)


def _findings(wanted: Lora, adapter: Adapter, made: Merge) -> list[Finding]:
    path = os.fspath(wanted.path)
    kinds = ", ".join(f"{kind} ×{count:,}" for kind, count in adapter.kinds.items())
    times = f", times {wanted.scale:g}" if wanted.scale not in (None, 1) else ""
    count = len(made.changed)
    message = f"{path}: {plural(count, 'tensor is', 'tensors are')} changed ({kinds}){times}"
    if made.prefix and made.changed:
        where = f"without {made.prefix[1:]!r}" if made.prefix.startswith("-") else f"behind {made.prefix!r}"
        message += f"; the base has its names {where}"
    found = [Finding("merged", "info", path, message, None, str(count))] if count or not made.replaced else []
    if are_loralibs(adapter.tensors) and not adapter.configs and wanted.scale is None:
        text = (
            f"{path}: nothing says its alpha, so it is merged with scale 1; loralib scales by lora_alpha / r: "
            "--lora ADAPTER=SCALE sets that"
        )
        found.append(Finding("no-alpha", "warning", path, text))
    for what, names in (("take the place of the base's", made.replaced), ("are new", made.added)):
        if names:
            text = f"{path}: {len(names):,} of its tensors {what}: {listed(names, 3)}"
            found.append(Finding("merged-whole", "info", names[0], text, None, str(len(names))))
    for name, rows in made.resized.items():
        text = f"{name} has other rows now, {rows}: vocab_size in the config.json has to follow"
        found.append(Finding("resized", "warning", name, text))
    for what, lost in made.absent.items():
        text = f"{path}: {lost:,} modules are for {what}, of which the base has nothing; they are left out"
        found.append(Finding("not-merged", "warning", path, text, None, str(lost)))
    return found
