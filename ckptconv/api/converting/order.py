"""What a conversion was asked to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptconv.api.editing.edits import Edits
from ckptconv.api.evidence import config_beside
from ckptconv.core.spelling import to_json
from ckptconv.edits.name_rule import GGUF, TO_GGUF, TO_LDM, TO_MMPROJ
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.api.request import Request
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.base import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to write. The fields are arguments of `convert`, but for these:

    format: the target's.
    own:    the format's own options, parsed.
    shards: whether it may become several files.
    """

    request: Request
    format: Format
    own: Any
    edits: Edits = field(default_factory=Edits)
    metadata: Mapping[str, MetaNode] = field(default_factory=dict)
    bare: bool = False
    with_params: bool = False
    verify: bool = False
    shards: bool = False

    def check(self) -> None:
        """Raise UsageError for arguments that do not go together."""
        request = self.request
        for_llama_cpp = [dialect for dialect in self.edits.dialects if dialect in (TO_GGUF, TO_MMPROJ)]
        if len(for_llama_cpp) > 1:
            options = " and ".join(f"--translate {dialect}" for dialect in for_llama_cpp)
            raise UsageError(
                f"{options}: each makes a file for llama.cpp, and a run makes one", hint="leave all but one out"
            )
        if self.shards and self.edits.to_mmproj:
            raise UsageError(
                "llama.cpp reads what it has for pictures or sounds from one file", hint="leave --shard-size out"
            )
        if request.settings and request.arch is None and not self.with_params:
            raise UsageError("params are set for no architecture", hint="name it with --arch, or ask for --with-params")
        if request.inputs and not self.verify and not (self.format.graph and self._may_be_python()):
            raise self.unused_inputs_error()
        if self.edits.quantize:
            self._check_quantize()
        if self.edits.templates:
            self._refuse_architecture(
                "none has another framework's names",
                "ckptconv validate asks it of the source, and ckptconv verify of both afterwards",
            )
        for key, value in self.metadata.items():
            try:
                to_json(value)
            except (TypeError, KeyError, RecursionError) as error:
                why = str(error)
                if not isinstance(error, TypeError):
                    why = "it holds itself or a factory of its own, or is nested too deeply"
                hint = "numbers, texts, lists, dicts, …; .item() or .tolist() of an array, str() of a path"
                raise UsageError(f"metadata {key!r}: {why}", hint=hint) from error

    def unused_inputs_error(self) -> UsageError:
        """The error for ``--input`` where nothing takes inputs."""
        return UsageError(
            "inputs are for Python that a graph is made of", hint="--input goes with --arch FILE.py:CLASS"
        )

    def _may_be_python(self) -> bool:
        """Whether Python may define the network: the named architecture; or without one, a config.json's class."""
        from ckptconv.arch.factory import is_reference  # imported late: few conversions use Python

        arch = self.request.arch
        return config_beside(self.request.path).is_file() if arch is None else is_reference(arch)

    def _check_quantize(self) -> None:
        """Raise UsageError for a target that cannot hold quantized weights, and for options that need plain ones."""
        from ckptconv.api.editing.quantize import scheme_of

        scheme = scheme_of(self.edits.quantize).name
        to_ldm = f"--translate {TO_LDM}" if self.edits.to_ldm else ""
        if to_ldm or self.format.graph or self.format.dialect:
            if self.format.dialect == GGUF:
                hint = "a GGUF has types of its own, as --dtype Q8_0"
            elif to_ldm:
                hint = "leave it out"
            else:
                hint = "leave it out, or write a .safetensors or a .pth"
            raise UsageError(
                f"--quantize {scheme} is for what transformers or mlx-lm load, and not for "
                f"{to_ldm or self.format.name}",
                hint=hint,
            )
        self._refuse_architecture("none has quantized weights", "ckptconv validate asks it of the source")

    def _refuse_architecture(self, why: str, instead: str) -> None:
        """Raise UsageError for an option that goes by the architecture of what is written."""
        options = {"verify": self.verify, "with-params": self.with_params, "arch": self.request.arch is not None}
        for option, is_given in options.items():
            if is_given:
                raise UsageError(
                    f"--{option} goes by an architecture, and {why}", hint=f"leave --{option} out; {instead}"
                )
