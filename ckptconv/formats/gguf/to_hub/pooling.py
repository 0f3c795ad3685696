"""How an embedding model makes one vector of its tokens', in the files that sentence-transformers reads.

modules.json             which modules there are: the network, then the pooling
1_Pooling/config.json    mean, cls or lasttoken
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.formats.gguf.hub.encoder import POOLING
from ckptconv.formats.gguf.hub.model import POOLING_FOLDER

if TYPE_CHECKING:
    from ckptconv.formats.gguf.to_hub.said import Said

_NONE = (None, 0)
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "lasttoken": "pooling_mode_lasttoken"}
_MODULE = "sentence_transformers.models"


def pooling_files(said: Said, findings: list[Finding]) -> dict[str, Any]:
    """The files by name; none for a model without pooling, and with a finding for a kind that has no name there."""
    kind = said.get("pooling_type")
    if kind in _NONE:
        return {}
    mode = next((mode for mode, number in POOLING.items() if number == kind), None)
    if mode is None:
        message = (
            f"{said.key('pooling_type')} is {str(kind)[:40]!r}, and not one of {', '.join(POOLING)}: it is left out"
        )
        findings.append(Finding("pooling", "warning", "", message))
        return {}
    parts = (("", "Transformer"), (POOLING_FOLDER, "Pooling"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_MODULE}.{kind}"}
        for number, (path, kind) in enumerate(parts)
    ]
    pooling = {"word_embedding_dimension": said.width} | {key: name == mode for name, key in _MODES.items()}
    return {"modules.json": modules, f"{POOLING_FOLDER}/{CONFIG}": pooling}
