"""Alignment: the compressor learns to speak to a frozen language model, from captions of single pictures (stage A)."""

from typing import ClassVar

from tstar.data.conversations import Template, get_template
from tstar.stages.base import Stage


class Align(Stage):
    """Only the compressor learns; the caption follows the picture, without roles (template "plain")."""

    trains = frozenset({"compressor"})

    @property
    def template(self) -> Template:
        """Captions only."""
        return get_template("plain")


class AlignProjector(Align):
    """The same for the two-layer projector that image tuning starts from; no compression."""

    fixed_compressor: ClassVar = {"name": "none"}
