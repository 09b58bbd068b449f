"""What a policy asks of its training data beyond plain windows; read by the loader, so neither imports the other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowNeeds:
    """Zero and false everywhere is a plain window.

    ``chain_stride``: windows come in chains, each ``chain_stride`` steps after the one before (``n_action_steps`` of a
    policy with a memory); a chain has at most ``max_chain`` windows and begins at the start of an episode or where the
    chain before it was cut.  ``goal_steps``: each window also gets that many later frames of its own episode as
    ``goal.*``, drawn at random.  ``keyposes``: the action of a window is that of the next key pose.
    """

    chain_stride: int = 0
    max_chain: int = 0
    goal_steps: int = 0
    keyposes: bool = False

    @property
    def chained(self) -> bool:
        """Whether batches carry chains of windows, ``(B, max_chain, ...)`` instead of ``(B, ...)``."""
        return self.chain_stride > 0
