"""How a soft actor-critic learns: frozen typed settings (no torch here: the command line reads them).

Sources: SAC (Haarnoja et al. 2018, arXiv 1812.05905) for the defaults; RLPD (arXiv 2302.02948) for layer_norm and
subset; DSRL (arXiv 2506.15799) for the bound and the two ways to count entropy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.rl.config import Activation, Positive

Rate = Annotated[float, Field(gt=0)]


@config_dataclass
class SACConfig:
    """One soft actor-critic over actions in the box ``[-bound, bound]``."""

    hidden: tuple[Positive, ...] = (256, 256)
    """Widths of every member of the critic."""
    actor_hidden: tuple[Positive, ...] | None = None
    """Widths of the actor; null = those of the critic."""
    activation: Activation = "relu"
    layer_norm: bool = False
    """LayerNorm before every activation, actor and critic."""
    ensemble: Positive = 2
    """Members of the critic."""
    subset: Positive | None = None
    """Members, drawn anew each update, over which a target is reduced; null = all (RLPD: 2 of 10)."""
    reduce: Literal["min", "mean"] = "min"
    """How the members become one number, in targets and for the actor."""
    bound: Rate = 1.0
    """Half-width of the box of actions (of latents, for DSRL)."""
    log_std: tuple[float, float] = (-20.0, 2.0)
    """Least and greatest log-deviation before the tanh."""
    density: Literal["box", "scaled"] = "box"
    """Where log-probabilities count: in [-1, 1], before scaling by `bound` (Stable-Baselines3), or after it, which adds
    `ln bound` of entropy a number.  A target entropy means different exploration in the two."""
    target_entropy: float | None = None
    """Entropy the temperature holds; null = minus the number of action numbers."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """A fixed temperature; null learns it."""
    initial_temperature: Rate = 1.0
    """Where a learned temperature starts."""
    entropy_backup: bool = True
    """Count the next action's entropy in the critic's targets (some DSRL code does not)."""
    polyak: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Share of the newest critic that enters the slow one each update."""
    actor_lr: Rate = 3e-4
    critic_lr: Rate = 3e-4
    temperature_lr: Rate = 3e-4

    def __post_init__(self) -> None:
        if self.subset is not None and self.subset > self.ensemble:
            raise ConfigError(f"subset={self.subset} is more than the ensemble={self.ensemble}; lower subset")
        if not self.hidden or self.actor_hidden == ():
            raise ConfigError("hidden or actor_hidden is empty; give at least one width")
        if not self.log_std[0] < self.log_std[1]:
            raise ConfigError(f"log_std={self.log_std} must rise; give (least, greatest)")
