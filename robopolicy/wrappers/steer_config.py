"""Which numbers an actor chooses of a policy's latent (no torch here: the command line reads it)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from robopolicy.core.configs import config_dataclass

MOST = 256  # numbers an actor chooses under kind: auto
Kind = Literal["auto", "full", "repeat", "basis", "additive"]


@config_dataclass
class LatentMapConfig:
    """How the actor's numbers become a latent (``wrappers/latent_maps.py``)."""

    kind: Kind = "auto"
    """full: every number; basis: a few smooth curves over time; repeat: one step's numbers at all steps (reproduction
    only: many policies fail under it); additive: a fixed draw an episode plus one offset; auto: full up to 256 numbers,
    a basis beyond."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """Curves of `basis`; null = as many as keep the actor at 256 numbers or fewer."""
    curves: Literal["dct", "linear"] = "dct"
    """Those of `basis`: cosines, or straight lines between equally spaced knots."""
