"""What was asked of a conversion, as far as it says what is to be written."""

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
    """The words are those of `convert`.

    format: the target's. own: its options, parsed. shards: whether it may be several files.
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
        """Raise UsageError where the words do not go together."""
        request = self.request
        makers = [one for one in self.edits.dialects if one in (TO_GGUF, TO_MMPROJ)]
        if len(makers) > 1:
            asked = " and ".join(f"--translate {one}" for one in makers)
            raise UsageError(
                f"{asked}: each makes a file for llama.cpp, and a run makes one", hint="leave all but one out"
            )
        if self.shards and self.edits.to_mmproj:
            raise UsageError(
                "llama.cpp reads what it has for pictures or sounds from one file", hint="leave --shard-size out"
            )
        if request.settings and request.arch is None and not self.with_params:
            raise UsageError("params are set for no architecture", hint="name it with --arch, or ask for --with-params")
        if request.inputs and not self.verify and not (self.format.graph and self._may_be_python()):
            raise self.odd_inputs()
        if self.edits.quantize:
            self._check_quantize()
        for key, value in self.metadata.items():
            try:
                to_json(value)
            except (TypeError, KeyError, RecursionError) as error:
                deep = "it holds itself or a factory of its own, or is nested too deeply"
                said = error if isinstance(error, TypeError) else deep
                hint = "numbers, texts, lists, dicts, …; .item() or .tolist() of an array, str() of a path"
                raise UsageError(f"metadata {key!r}: {said}", hint=hint) from error

    def odd_inputs(self) -> UsageError:
        """The error for inputs that nothing asks for."""
        return UsageError(
            "inputs are for Python that a graph is made of", hint="--input goes with --arch FILE.py:CLASS"
        )

    def _may_be_python(self) -> bool:
        """Whether Python computes: what was named, or, where nothing was, the class of a config.json."""
        from ckptconv.arch.factory import is_reference  # few ask for Python

        arch = self.request.arch
        return config_beside(self.request.path).is_file() if arch is None else is_reference(arch)

    def _check_quantize(self) -> None:
        """Raise UsageError where quantized weights cannot go, and where they would be taken for a model."""
        from ckptconv.api.editing.quantize import scheme_of

        name, to_ldm = scheme_of(self.edits.quantize).name, f"--translate {TO_LDM}" * self.edits.to_ldm
        if to_ldm or self.format.graph or self.format.dialect:
            hint = "leave it out" if to_ldm else "leave it out, or write a .safetensors or a .pth"
            raise UsageError(
                f"--quantize {name} is for what transformers or mlx-lm load, and not for {to_ldm or self.format.name}",
                hint="a GGUF has types of its own, as --dtype Q8_0" if self.format.dialect == GGUF else hint,
            )
        asked = {"verify": self.verify, "with-params": self.with_params, "arch": self.request.arch is not None}
        if words := [word for word, one in asked.items() if one]:
            raise UsageError(
                f"--{words[0]} goes by an architecture, and none has quantized weights",
                hint=f"leave --{words[0]} out; ckptconv validate asks it of the source",
            )
