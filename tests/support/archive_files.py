"""Archives as people and tools pack them, made with Python's zipfile and tarfile."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = (
    "target: nemo.collections.asr.models.EncDecCTCModel\n"
    "preprocessor:\n  _target_: nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor\n  rate: 16000\n"
)


def state() -> dict[str, torch.Tensor]:
    return {"encoder.weight": torch.arange(12.0).reshape(3, 4), "encoder.bias": torch.tensor([1.5, -2, 3]).half()}


def saved_bytes(value: object, **options: Any) -> bytes:
    """torch.save, in memory."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def tarred(path: Path, members: Mapping[str, bytes], mode: str = "w:", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def nemo(path: Path, folder: Path, mode: str = "w:") -> Path:
    """Pack a folder as NeMo's ``SaveRestoreConnector._make_nemo_file_from_folder`` does."""
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        file.add(folder, arcname=".")
    return path


def nemo_folder(folder: Path, config: str = CONFIG) -> Path:
    """Make a folder with what NeMo's ``save_to`` packs: the configuration, the weights, a tokenizer."""
    folder.mkdir()
    (folder / "model_config.yaml").write_text(config)
    torch.save(state(), folder / "model_weights.ckpt")
    (folder / "5f3c_tokenizer.model").write_bytes(bytes(600))
    return folder


def mar(path: Path, method: int = zipfile.ZIP_DEFLATED, **model_entries: str) -> Path:
    """Make an archive as TorchServe's model archiver does; `model_entries` change the manifest."""
    manifest = {
        "createdOn": "01/01/2024 00:00:00", "runtime": "python", "archiverVersion": "0.12.0",
        "model": {"modelName": "net", "serializedFile": "net.pt", "handler": "image_classifier", "modelVersion": "1.0"},
    }  # fmt: skip
    manifest["model"] |= model_entries  # type: ignore[operator]
    members = {"net.pt": saved_bytes(state()), "handler.py": b"print(1)\n", "index_to_name.json": b'{"0": "cat"}'}
    return zipped(path, {**members, "MAR-INF/MANIFEST.json": json.dumps(manifest).encode()}, method)
