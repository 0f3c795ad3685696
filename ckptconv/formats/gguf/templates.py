"""Chat templates in the metadata: ``tokenizer.chat_template``, and named ones, ``tokenizer.chat_template.NAME``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.formats.code.jinja import program_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.notes import Program
    from ckptconv.formats.gguf.values import Typed

KEY = re.compile(r"tokenizer\.chat_template(\..+)?")


def programs_in(values: Mapping[str, Typed]) -> Iterator[Program]:
    """The chat templates that attack whoever renders them."""
    for key, (_, text) in values.items():
        if isinstance(text, str) and KEY.fullmatch(key) and (found := program_in(key, text)) is not None:
            yield found
