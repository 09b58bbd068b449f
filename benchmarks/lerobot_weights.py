"""LeRobot's diffusion U-Net weights under our names, so that both networks compute the same function."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Applied in order; each pattern is anchored to a whole path segment.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^diffusion_step_encoder\.1\.", "step_embedding.up."),
    (r"^diffusion_step_encoder\.3\.", "step_embedding.down."),
    (r"^(down|up)_modules\.(\d+)\.0\.", r"\1.\2.first."),
    (r"^(down|up)_modules\.(\d+)\.1\.", r"\1.\2.second."),
    (r"^(down|up)_modules\.(\d+)\.2\.", r"\1.\2.resample."),
    (r"^mid_modules\.", "mid."),
    (r"^final_conv\.0\.block\.0\.", "head.conv."),
    (r"^final_conv\.0\.block\.1\.", "head.norm."),
    (r"^final_conv\.1\.", "project."),
    (r"\.conv1\.block\.0\.", ".first.conv."),
    (r"\.conv1\.block\.1\.", ".first.norm."),
    (r"\.conv2\.block\.0\.", ".second.conv."),
    (r"\.conv2\.block\.1\.", ".second.norm."),
    (r"\.cond_encoder\.1\.", ".film."),
    (r"\.residual_conv\.", ".skip."),
)


def unet_name(lerobot_name: str) -> str:
    """Our name of a parameter of LeRobot's ``DiffusionConditionalUnet1d``."""
    name = lerobot_name
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def unet_state_dict(lerobot: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a LeRobot U-Net ``state_dict`` and put taps first; loads into ``ConditionalUnet1d`` strictly."""
    out = {}
    for name, value in lerobot.items():
        ours = unet_name(name)
        if value.ndim == 3:  # convolutions are (out, in, taps), transposed ones (in, out, taps)
            transposed = ours.startswith("up.") and ".resample." in ours
            value = value.permute(2, 0, 1) if transposed else value.permute(2, 1, 0)
        out[ours] = value.contiguous()
    return out
