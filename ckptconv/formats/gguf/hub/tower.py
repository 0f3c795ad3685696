"""What a configuration says of a tower for pictures or sounds, each value checked as it is asked for.

llama.cpp computes each projector in one way: what is said otherwise is refused by name, as the file would load, and
compute something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.formats.gguf.hub.config import Config, unlike

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.dialects.gguf_projectors import Projector
    from ckptconv.errors import UnsupportedError

    Unsaid = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Said:
    """Where things are said: in the whole configuration of a class, of its tower, and by the preprocessor."""

    projector: str
    named: str
    whole: Config
    tower: Config
    preprocessor: Config

    @classmethod
    def of(
        cls, projector: Projector, document: Mapping[str, Any], preprocessor: Mapping[str, Any], unsaid: Unsaid
    ) -> Said:
        """Of a document whose projector it is; `unsaid` is what towers leave out, by their projectors."""
        tower = {key: value for key, value in document[projector.config].items() if value is not None}
        named = document["architectures"][0]
        return cls(
            projector.name, named, Config(document), Config({**unsaid[projector.name], **tower}), Config(preprocessor)
        )

    def unlike(self, key: str, value: object, why: str) -> UnsupportedError:
        """The error for what llama.cpp does not compute."""
        return unlike(self.projector, key, value, why, "to-mmproj")

    def check(self, key: str, wanted: object, why: str) -> None:
        """Raise UnsupportedError where the tower's configuration, or the whole, says another value."""
        for config in (self.tower, self.whole):
            if config.has(key) and config.get(key) != wanted:
                raise self.unlike(key, config.get(key), why)

    def activation(self, *known: str) -> str:
        """The tower's. Raises UnsupportedError where it is none of these."""
        found = self.tower.text("hidden_act")
        if found not in known:
            raise self.unlike("hidden_act", found, f"it computes with {known[0]}")
        return found

    def side(self, key: str) -> int:
        """One number, where there may be two for height and width. Raises UnsupportedError where these differ."""
        found = self.tower.get(key)
        if isinstance(found, list) and found:
            if any(one != found[0] for one in found):
                raise self.unlike(key, found, "pictures and patches are square")
            return Config({key: found[0]}).positive(key)
        return self.tower.positive(key)
