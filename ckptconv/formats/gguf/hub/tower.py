"""The configurations of a vision or audio tower, whose values are checked when they are read.

llama.cpp implements each projector in one way. A configuration that states something else is refused by name: the file
would load, and compute something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.formats.gguf.hub.config import Config, unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.dialects.gguf_projectors import Projector
    from ckptconv.errors import UnsupportedError

    Defaults = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TowerConfigs:
    """What describes a tower.

    projector:    llama.cpp's name of the projector.
    class_name:   transformers' class of the model.
    model:        the model's configuration.
    tower:        the tower's configuration, with the defaults of transformers' class.
    preprocessor: the preprocessor's configuration.
    """

    projector: str
    class_name: str
    model: Config
    tower: Config
    preprocessor: Config

    @classmethod
    def of(
        cls, projector: Projector, document: Mapping[str, Any], preprocessor: Mapping[str, Any], defaults: Defaults
    ) -> TowerConfigs:
        """From a model's config.json; `defaults` are those of transformers' classes, by projector."""
        tower = {key: value for key, value in document[projector.config].items() if value is not None}
        return cls(
            projector=projector.name,
            class_name=document["architectures"][0],
            model=Config(document),
            tower=Config({**defaults[projector.name], **tower}),
            preprocessor=Config(preprocessor),
        )

    def unsupported(self, key: str, value: object, why: str) -> UnsupportedError:
        """The error for a value that llama.cpp does not implement; `why` says what it computes."""
        return unsupported(self.projector, key, value, why, "to-mmproj")

    def check(self, key: str, expected: object, why: str) -> None:
        """Raise UnsupportedError if the tower's configuration, or the model's, states another value."""
        for config in (self.tower, self.model):
            if config.has(key) and config.get(key) != expected:
                raise self.unsupported(key, config.get(key), why)

    def activation(self, *known: str) -> str:
        """The tower's activation. Raises UnsupportedError if it is none of these."""
        activation = self.tower.text("hidden_act")
        if activation not in known:
            raise self.unsupported("hidden_act", activation, f"it computes with {known[0]}")
        return activation

    def side(self, key: str) -> int:
        """The side of a square, which may be stated as height and width. Raises UnsupportedError if these differ."""
        sides = self.tower.get(key)
        if isinstance(sides, list) and sides:
            if any(side != sides[0] for side in sides):
                raise self.unsupported(key, sides, "it takes square images and patches")
            return Config({key: sides[0]}).positive(key)
        return self.tower.positive(key)
