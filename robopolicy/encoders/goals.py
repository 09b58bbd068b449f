"""Goals as tokens: a later observation, encoded by the very modules that encode observations.

Source: BESO's goal conditioning (Reuss et al. 2023, arXiv 2304.02532), where states and goals share one embedding.
What differs: goals may show any part of an observation, images too; what they do not show is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robopolicy.core.specs import GOAL

if TYPE_CHECKING:
    from robopolicy.encoders.fusion import ObservationEncoder


def encode_goals(
    encoder: ObservationEncoder, obs: Mapping[str, Tensor], crops: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Goal tokens ``(B, G, step_dim)`` of the goals in ``obs`` ``(B, G, ...)``.

    ``crops[camera]`` ``(B, To, 2)`` are those of the observation: a goal is cropped where its newest frame is, so that
    what did not move stays where it was.
    """
    given = {goal.key.removeprefix(GOAL): obs[goal.key] for goal in encoder.goals}
    first = next(iter(given.values()))
    rows, steps = first.shape[:2]

    def blank(width: int) -> Tensor:
        return torch.zeros(rows, steps, width, device=first.device)

    parts: list[Tensor] = []
    for camera in encoder.cameras:
        net = encoder.image_encoder(camera.key)
        if camera.key not in given:
            parts.append(blank(net.dim))
            continue
        where = None if crops is None else crops[camera.key][:, -1:].expand(-1, steps, -1).flatten(0, 1)
        parts.append(net(given[camera.key].flatten(0, 1), where).unflatten(0, (rows, steps)))
    if encoder.depth is not None:
        parts.append(blank(encoder.depth.dim))
    if encoder.state is not None:
        shown = [given[f.key] if f.key in given else blank(f.shape[0]) for f in encoder.vectors]
        seen = any(f.key in given for f in encoder.vectors)
        parts.append(encoder.state(torch.cat(shown, dim=-1)) if seen else blank(encoder.state.dim))
    if encoder.language is not None:
        parts.append(blank(encoder.language.dim))
    tokens: Tensor = encoder.project(torch.cat(parts, dim=-1))
    return tokens
