"""The files that transformers needs beside the weights of a GGUF, made from its metadata (``--translate gguf``).

They are made if DST is a folder, or if ``--with-files`` asks for them and no config.json lies beside the GGUF. Asked
for, they are all made or nothing is; for a folder, a model that has no configuration is a finding. Metadata that the
user sets outranks the GGUF's. What the files say is left out of the metadata and the tensors that are written, as it
would be said twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.converting.companions import check_free
from ckptconv.api.editing.dequantize import type_name
from ckptconv.api.editing.edits import Moves
from ckptconv.api.editing.quantize import quantization_config
from ckptconv.api.evidence import config_beside
from ckptconv.core.metadata import StateDict
from ckptconv.core.report import Finding
from ckptconv.core.text import listed
from ckptconv.edits.name_rule import GGUF
from ckptconv.errors import CkptconvError, located
from ckptconv.formats.gguf.metadata import SOURCE

if TYPE_CHECKING:
    from ckptconv.api.converting.order import Order
    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.gguf.to_hub.files import RestoredFiles
    from ckptconv.io.target import Target


@dataclass(frozen=True, slots=True)
class MadeFiles:
    """Files to write beside a target, with what `Companions` has.

    restored: what the GGUF gives; None if it gives no configuration, for which `findings` has the reason.
    dtype:    the configuration's name for the type of the weights.
    """

    restored: RestoredFiles | None
    findings: list[Finding]
    dtype: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.restored.documents) if self.restored is not None else ()

    def check(self, target: Path, *, replace: bool) -> None:
        """Raise TargetExistsError if one of them exists already and may not be replaced."""
        check_free(target.parent, self.names, replace=replace)

    def applied_to(self, prepared: Prepared) -> Prepared:
        """What is written, without the tensors and the metadata that the files say, under the names of their class."""
        if self.restored is None:
            return prepared
        keys, computed, renamed = self.restored.keys, self.restored.tensors, self.restored.renamed
        checkpoint, moves = prepared.checkpoint, prepared.moves
        root = checkpoint.root
        if isinstance(root, dict):
            root = {key: value for key, value in root.items() if key not in keys}
            if len(root) == 1 and isinstance(only := next(iter(root.values())), StateDict):
                root = only
        tensors = {renamed(name): tensor for name, tensor in checkpoint.items() if name not in computed}
        written = checkpoint.with_tensors(tensors, checkpoint.findings).replaced(root=root)
        by_name = [{renamed(name): value for name, value in one.items()} for one in (moves.origins, moves.merged)]
        return replace(prepared, checkpoint=written, moves=Moves(*by_name))

    def write(self, target: Target) -> None:
        """Write them beside an open target. They get their names together with it."""
        contents = self.restored.contents(self.dtype) if self.restored is not None else {}
        for name, content in contents.items():
            other = target.beside(name, folders=name.count("/"))
            other.reserve(len(content))
            other.write_at(0, content)


def makes_files(order: Order, opened: Checkpoint, *, with_files: bool, folder: bool) -> bool:
    """Whether this conversion makes files from a GGUF's metadata."""
    if GGUF not in order.edits.dialects or not opened.format.startswith(SOURCE) or order.format.dialect == GGUF:
        return False
    if with_files:
        return not config_beside(Path(order.request.source)).is_file()
    return folder and bool(order.format.sharded or order.format.layout)


def make_files(order: Order, opened: Checkpoint, made: Checkpoint, *, demanded: bool) -> MadeFiles:
    """The files for the result `made`. Raises CkptconvError if they are demanded and cannot be made."""
    from ckptconv.formats.gguf.to_hub.files import restore_files

    try:
        with located(Path(order.request.source)):
            stated: dict[object, object] = dict(opened.metadata) | dict(order.metadata)
            restored = restore_files(stated, opened, whole=demanded)
    except CkptconvError as error:
        if demanded:
            raise
        return MadeFiles(None, [Finding("no-config", "warning", "", f"{error.args[0]}; the weights alone are written")])
    message = f"made from the metadata: {listed([*restored.documents], 6)}"
    findings = [Finding("made-files", "info", "", message), *restored.findings]
    if restored.tensors:
        message = f"{listed(restored.tensors)}: transformers computes it from config.json, and it is left out"
        findings.append(Finding("left-out", "info", restored.tensors[0], message))
    if blocks := sorted({tensor.info.dtype.name for tensor in made.values() if tensor.info.dtype.block > 1}):
        message = f"weights stay {listed(blocks)}, which transformers does not read: --dtype BF16 makes floats of them"
        findings.append(Finding("blocks", "warning", "", message, hint="--dtype BF16"))
    weights = {restored.renamed(name): tensor for name, tensor in made.items() if name not in restored.tensors}
    if (quantized := quantization_config(weights)) is not None:
        restored = restored.with_config(quantized)
    return MadeFiles(restored, findings, type_name(weights))
