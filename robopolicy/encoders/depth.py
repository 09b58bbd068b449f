"""All depth cameras of an observation, each to one vector a step (``point_cloud.py``), for heads that read vectors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import FeatureKind, ObservationSpec
from robopolicy.encoders.cameras import CameraRig, color_key, pose_key
from robopolicy.encoders.config import PointCloudConfig
from robopolicy.encoders.point_cloud import PointCloudEncoder


class DepthEncoder(nn.Module):
    """One ``PointCloudEncoder`` a depth camera; ``dim`` numbers a step, all cameras together."""

    def __init__(self, spec: ObservationSpec, config: PointCloudConfig) -> None:
        """Raises ``ConfigError`` without calibration, and with ``use_color`` without the colour picture."""
        super().__init__()
        self.config = config
        self.rig = CameraRig(spec, config.max_depth)
        for key in self.rig.keys:
            if config.use_color and color_key(key) not in spec:
                raise ConfigError(
                    f"point_cloud.use_color: {key} has no '{color_key(key)}' beside it; add it to the keys"
                )
        self.clouds = nn.ModuleDict({k.replace(".", "/"): PointCloudEncoder(config) for k in self.rig.keys})
        self.dim = len(self.rig.keys) * config.feature_dim

    def forward(self, obs: Mapping[str, Tensor]) -> list[Tensor]:
        """``obs[key]`` ``(B, To, ...)`` to one ``(B, To, feature_dim)`` a camera."""
        parts = []
        for key in self.rig.keys:
            batch, steps = obs[key].shape[:2]
            own = {k: obs[k].flatten(0, 1) for k in (key, color_key(key), pose_key(key)) if k in obs}
            color = own.get(color_key(key)) if self.config.use_color else None
            encoded: Tensor = self.clouds[key.replace(".", "/")](self.rig.xyz(key, own), color)
            parts.append(encoded.unflatten(0, (batch, steps)))
        return parts


def colored_cameras(spec: ObservationSpec, config: PointCloudConfig) -> frozenset[str]:
    """Keys of colour pictures that colour points and are encoded in no other way."""
    if not config.use_color or config.keep_images:
        return frozenset()
    return frozenset(color_key(f.key) for f in spec.of_kind(FeatureKind.DEPTH))
