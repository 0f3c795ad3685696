"""One jsonraw file.

8 bytes    "JSONRAW1"
8 bytes    u32 length N of the header, u32 CRC-32 of the header, little-endian
N bytes    ASCII JSON: [[name, dtype, shape]…], in the order of the data
rest       the tensors' bytes, without gaps
"""

from __future__ import annotations

import json
from struct import pack, unpack
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.tensor import ByteSpan, LazyTensor, SpanReader, TensorInfo
from ckptconv.errors import CorruptFileError
from ckptconv.formats.base import WriteResult
from ckptconv.io.checksum import crc32
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.source import Source
    from ckptconv.io.target import Target

MAGIC = b"JSONRAW1"


def claims(source: Source) -> bool:
    return source.size >= 16


def read(source: Source) -> Checkpoint:
    if source.size < 16 or bytes(source.read_at(0, 8)) != MAGIC:
        raise CorruptFileError("this is not a jsonraw file", hint="copy it again")
    length, crc = unpack("<2I", source.read_at(8, 8))
    header = bytes(source.read_at(16, length))
    if crc32(header) != crc:
        raise CorruptFileError("the header fails its checksum", hint="copy it again")
    tensors, offset = {}, 16 + length
    for name, dtype, shape in json.loads(header):
        info = TensorInfo.of(DTYPES[dtype], tuple(shape))
        span = ByteSpan(source, offset, info.nbytes)
        tensors[name] = LazyTensor(info, SpanReader(span), span, (id(source), name), (span,))
        offset += info.nbytes
    if offset != source.size:
        raise CorruptFileError("the file has another size than its header says", hint="copy it again")
    return Checkpoint(tensors, format="jsonraw", file=source)


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    rows = [[name, tensor.info.dtype.name, list(tensor.info.shape)] for name, tensor in checkpoint.items()]
    header = json.dumps(rows).encode("ascii")
    jobs, offset = [], 16 + len(header)
    for name, tensor in checkpoint.items():
        jobs.append(Job(name, tensor, offset))
        offset += tensor.info.nbytes
    target.reserve(offset)
    target.write_at(0, MAGIC + pack("<2I", len(header), crc32(header)) + header)
    Streamer(target, crc=False, content=False, progress=options.progress).run(jobs)
    return WriteResult(offset)
