"""Completes a transformers model, or a PEFT adapter, for llama.cpp: adds the metadata and tensors that a GGUF needs.

An adapter is translated like its base, by the base's configuration. It lies beside the adapter, or is named by
``--arch``; the base's name in PEFT's configuration is not looked up anywhere.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.api.editing.lora import Lora, adapter_of
from ckptconv.api.editing.mixture import adapter_mixture_error
from ckptconv.api.evidence import config_beside
from ckptconv.arch.huggingface import is_config
from ckptconv.arch.load import library_names
from ckptconv.arch.statements import CONFIG
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.notes import Notes
from ckptconv.edits.adapters.adapter import Adapter, check
from ckptconv.edits.adapters.names import is_adapter
from ckptconv.edits.adapters.to_llama_cpp import MERGE
from ckptconv.edits.name_rule import TO_GGUF, TO_MMPROJ
from ckptconv.edits.types import requested_mixture
from ckptconv.errors import EditError, UnsupportedError, UsageError, located
from ckptconv.formats.gguf.filetype import FILE_TYPE_KEY
from ckptconv.formats.gguf.hub.adapter import adapter_contents
from ckptconv.formats.gguf.hub.documents import Documents
from ckptconv.formats.gguf.hub.mmproj import mmproj_contents
from ckptconv.formats.gguf.hub.model import model_contents
from ckptconv.formats.gguf.metadata import SOURCE
from ckptconv.io.folder import Folder, folder_of

if TYPE_CHECKING:
    from ckptconv.api.converting.order import Order
    from ckptconv.api.editing.edits import Moves
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format
    from ckptconv.formats.gguf.hub.model import Contents


_MAKERS = {TO_GGUF: model_contents, TO_MMPROJ: mmproj_contents}


def check_target(wanted: Format, dialect: str) -> None:
    """Raise UsageError for a llama.cpp model in another format than GGUF."""
    if wanted.dialect != SOURCE:
        raise UsageError(
            f"--translate {dialect} makes a GGUF with its metadata, and the target is {wanted.name}",
            hint="name a target that ends in .gguf",
        )


def check_model(checkpoint: Checkpoint, order: Order) -> None:
    """Raise UsageError for an adapter, and for options that need an architecture: none has llama.cpp's names."""
    request = order.request
    if is_adapter(checkpoint):
        raise UsageError(
            f"--translate {TO_MMPROJ}: this is an adapter, and llama.cpp loads none for pictures or sounds",
            hint="ckptconv convert BASE MERGED --lora ADAPTER merges it; then translate that",
        )
    arch = request.arch or ""
    by_name = arch in library_names() or is_config(arch)
    for word, asked in (("verify", order.verify), ("with-params", order.with_params), ("arch", by_name)):
        if asked:
            line = shlex.join(["ckptconv", "validate", str(request.source), *(["--arch", arch] if arch else [])])
            raise UsageError(
                f"--{word} goes by an architecture, and none has llama.cpp's names, which the result has",
                hint=f"leave --{word} out; {line} asks it of the source",
            )


@dataclass(frozen=True, slots=True)
class AdapterForLlamaCpp:
    """An adapter that is converted for llama.cpp, and the configuration of its base."""

    adapter: Adapter
    config: dict[str, Any]

    @property
    def stated(self) -> dict[object, MetaNode]:
        """The configuration, as translations take it."""
        return dict[object, MetaNode](self.config.items())

    def convert(self, checkpoint: Checkpoint, moves: Moves, order: Order) -> Contents:
        """The tensors and metadata for llama.cpp. `checkpoint` has what the edits left. Raises CkptconvError."""
        kept = {old for name in checkpoint for old in moves.origins.get(name, ())}
        tensors = {name: tensor for name, tensor in self.adapter.tensors.items() if name in kept}
        adapter = Adapter.of(self.adapter.label, tensors, self.adapter.configs)
        with located(order.request.source):
            return adapter_contents(adapter, self.config, checkpoint, order.metadata)


def _check_adapter(checkpoint: Checkpoint, order: Order) -> None:
    """Raise UsageError for an adapter that llama.cpp can load already, and for options that only models have."""
    if checkpoint.notes.source == SOURCE or checkpoint.format == SOURCE:
        raise UsageError("--translate to-gguf: these are llama.cpp's names already", hint="leave --translate out")
    merges = any(isinstance(step, Lora) for step in order.edits.steps)
    for word, asked in (
        ("verify", order.verify), ("with-params", order.with_params), ("shard-size", order.shards),
        ("set", order.request.settings), ("lora", merges),
    ):  # fmt: skip
        if asked:
            raise UsageError(
                f"--{word} is for models, and this is an adapter, one file beside its base", hint=f"leave --{word} out"
            )
    if requested_mixture(order.edits.dtype):
        raise adapter_mixture_error()


def adapter_for_llama_cpp(checkpoint: Checkpoint, order: Order) -> AdapterForLlamaCpp | None:
    """The adapter to convert; None if the order asks for something else, or if the checkpoint is a model.

    Raises CkptconvError for an adapter that is not a PEFT LoRA, or if its base's configuration cannot be found.
    """
    if order.edits.for_llama_cpp != TO_GGUF or not is_adapter(checkpoint):
        return None
    _check_adapter(checkpoint, order)
    source = order.request.path
    label = source.resolve().name.encode("utf-8", "replace").decode("utf-8")
    adapter = adapter_of(checkpoint, label)
    check(adapter)
    if (kind := adapter.config("").peft) != "LORA":
        kind = kind or "of another make"
        message = f"--translate to-gguf: llama.cpp's adapters are made from PEFT's LoRA, and this is {kind}"
        raise UnsupportedError(message, path=source, hint=MERGE)
    path = _base_config(adapter, source, order.request.arch)
    with Folder(path.parent) as folder:
        document = Documents(folder).object(path.name)
    if document is None:
        raise UsageError(f"--arch {order.request.arch!r}: there is no {path}", hint="name the base's config.json")
    return AdapterForLlamaCpp(adapter, document)


def _base_config(adapter: Adapter, source: Path, arch: str | None) -> Path:
    """The path of the base's configuration. Raises EditError, UsageError."""
    if arch is not None:
        named = Path(arch)
        if not named.is_dir() and named.suffix != ".json":
            raise UsageError(
                f"--arch {arch!r} is not a transformers configuration, which translating an adapter needs",
                hint="name the base's config.json, or the folder that it lies in",
            )
        return named / CONFIG if named.is_dir() else named
    beside = config_beside(source)
    if beside.is_file():
        return beside
    base = adapter.config("").base
    name = f", {base[:80]!r}" if base else ""
    raise EditError(
        f"--translate to-gguf: nothing says the configuration of the adapter's base{name}",
        path=source, hint="--arch BASE/config.json names it; the base's weights are not read",
    )  # fmt: skip


def complete_for_llama_cpp(
    checkpoint: Checkpoint, moves: Moves, order: Order, adapter: AdapterForLlamaCpp | None
) -> tuple[Checkpoint, Moves, dict[str, MetaNode]]:
    """Add what llama.cpp needs to a checkpoint whose tensors are translated and cast.

    Returns the checkpoint, where its tensors come from, and the metadata that was added. The source's own metadata and
    extras stay, unless the order is bare. Raises CkptconvError.
    """
    path, asked = order.request.path, order.metadata
    if adapter is not None:
        result = adapter.convert(checkpoint, moves, order)
    else:
        with Folder(folder_of(path)) as folder:
            result = _MAKERS[order.edits.for_llama_cpp](folder, checkpoint, asked)
    values: dict[str, MetaNode] = {key: value for key, (_, value) in result.entries.items()}
    if (mixture := requested_mixture(order.edits.dtype)) is not None and FILE_TYPE_KEY not in asked:
        values[FILE_TYPE_KEY] = mixture.number
    types = {key: kind for key, (kind, _) in result.entries.items()}
    model_only = order.bare or (not checkpoint.metadata and not checkpoint.extras)
    completed = checkpoint.replaced(
        tensors=result.tensors, extras={} if model_only else checkpoint.extras, composites={},
        root=StateDict() if model_only else checkpoint.root, notes=Notes(source=SOURCE, types=types),
        findings=(*checkpoint.findings, *result.findings),
    )  # fmt: skip
    origins = {name: moves.origins.get(result.rows.get(name, name), ()) for name in result.tensors}
    return completed.with_metadata(values), replace(moves, origins=origins), values
