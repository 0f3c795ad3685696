"""OpenVINO: a graph in XML, its constants in a file beside it; read, not written.

Begin with `read`, which has the layout of both files.

    read        the reader: the graph's constants as tensors
    document    parsing the XML
    quantized   constants that form one compressed weight
"""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="openvino",
        summary="OpenVINO's IR: a graph in .xml and its weights in the .bin beside it, or their folder",
        suffixes=(".xml",),
        magic=((0, b"<?xml"), (0, b"<net"), (0, b"\xef\xbb\xbf<")),
        claims="ckptconv.formats.openvino.read:claims",
        reader="ckptconv.formats.openvino.read:read",
        takes=("file", "folder"),
    ),
)
