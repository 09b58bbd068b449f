"""Options of the 3D Diffuser Actor head (no torch here: the command line reads this class).

Defaults: the released code's losses, schedules and depths (sections 5 to 7 of the spec), with its trajectory width, few
DDIM steps instead of one a training level, text padding masked, and a ResNet-18 where the paper has a frozen CLIP
trunk, because nothing is ever downloaded (``scene.backbone: clip_rn50`` with ``scene.weights`` is the paper's).
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import STATE, TASK, FeatureKind
from robopolicy.encoders.config import SceneConfig
from robopolicy.policies.backbone_config import check_dropout
from robopolicy.policies.chunk_config import SamplingConfig, check_inference_steps
from robopolicy.policies.pose_layout import PoseLayout

Corner = tuple[float, float, float]
Schedule = Literal["squaredcos_cap_v2", "linear", "scaled_linear"]


@config_dataclass
class DiffuserActor3dConfig(SamplingConfig):
    """3D Diffuser Actor: end-effector poses denoised among the points of a scene that depth cameras see."""

    default_kinds: ClassVar[tuple[FeatureKind, ...]] = (FeatureKind.STATE, FeatureKind.IMAGE, FeatureKind.DEPTH)
    type: Literal["diffuser_actor_3d"] = "diffuser_actor_3d"
    mode: Literal["trajectory", "keypose"] = "trajectory"
    """A pose for every step of the horizon, or one: the next key pose, commanded at every step."""
    pose: PoseLayout = field(default_factory=PoseLayout)
    position_key: str = STATE
    """Observation whose first three channels (or ``position_channels``) are the gripper's x, y, z in metres."""
    position_channels: tuple[int, int, int] = (0, 1, 2)
    use_state: bool = False
    """Also tell the network all low-dimensional observations. The paper's sees the gripper's positions only,
    neither its rotation nor its opening."""
    scene: SceneConfig = field(default_factory=lambda: SceneConfig(backbone="resnet18"))
    """How RGB-D cameras become tokens."""
    rescale: tuple[float, float] | None = None
    """While training, change the scale of each sample's pictures and points together by a factor between these two,
    and crop or mirror back to size: [0.75, 1.25] is the paper's. Null leaves them as they are."""
    lang_cross: bool = False
    """Attend to the sentence inside the denoiser's blocks too (the paper's CALVIN models). The sentence is read when
    ``observation_keys`` names ``task``; ``encoder.language`` says how."""
    mask_text: bool = True
    """Leave the padding of a sentence out of attention; the released models attend to it."""
    embed_dim: int = 192
    """Width C; a multiple of 48 with 8 heads. The paper: 120 for key poses (needs ``parity``), 192 for trajectories."""
    heads: int = 8
    fps_factor: int = 5
    """One in so many scene tokens takes part in self-attention, chosen far apart in feature space."""
    scene_layers: int = 2
    """Layers in which the scene attends to the sentence."""
    history_layers: int = 3
    """Layers in which the gripper's past positions attend to the scene."""
    cross_layers: int = 2
    """Layers in which the poses attend to the scene."""
    self_layers: int = 4
    """Layers of poses and chosen scene tokens together."""
    branch_layers: int = 2
    """Such layers of each of the two branches, rotation and position."""
    dropout: float = 0.1
    """In the layers that attend to the sentence."""
    rotary_base: float = 10_000.0
    """Slowest to fastest turn of the position code; 100 lets more channels tell places apart (not the paper's)."""
    rotary_scale: float = 1.0
    """Factor on normalised coordinates before they are coded."""
    place_tokens: bool = False
    """Add a linear map of its place to each scene token. Attention then carries places and not only differences of
    them: small networks learn sooner, and the scene is no longer seen invariantly to translation (not the paper's)."""
    denoise_steps: int = 100
    """Noise levels T."""
    pos_schedule: Schedule = "scaled_linear"
    """Of positions. The paper's ends at a signal-to-noise ratio of 0.94, while sampling starts from pure noise;
    squaredcos_cap_v2 ends where sampling starts."""
    rot_schedule: Schedule = "squaredcos_cap_v2"
    """Of rotations."""
    beta_start: float = 1e-4
    """First beta (linear schedules only)."""
    beta_end: float = 2e-2
    """Last beta (linear schedules only)."""
    loss_weights: tuple[float, float, float] = (30.0, 10.0, 1.0)
    """Of position noise (L1), rotation noise (L1) and gripper (cross-entropy)."""
    gripper_round: bool = True
    """Command the gripper fully closed or open; false commands the predicted probability in between."""
    bounds: tuple[Corner, Corner] | None = None
    """Lowest and highest corner of the gripper's workspace in metres (relative to the gripper if ``relative``). Null is
    the range of the actions, and twice that about the gripper if ``relative``, widened by ``bounds_buffer``."""
    bounds_buffer: float = 0.04
    """Metres; with bounds null."""
    relative: bool = False
    """Everything is seen and predicted from the newest gripper position (translation only)."""
    parity: bool = False
    """Build the parts that the released network has and never uses, and accept its width of 120."""
    spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    """How inference steps are picked from the training steps; a different spacing is a different decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.temporal is not None:
            raise ConfigError("diffuser_actor_3d has no temporal encoder: set encoder.temporal to null")
        if self.lang_cross and TASK not in (self.observation_keys or ()):
            raise ConfigError("lang_cross needs a sentence: add task to observation_keys")
        layers = ("scene_layers", "history_layers", "cross_layers", "self_layers", "branch_layers")
        for name in ("embed_dim", "heads", "fps_factor", "denoise_steps", *layers):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        check_inference_steps(self.num_inference_steps, self.denoise_steps, "denoise_steps")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(f"expected 0 < beta_start <= beta_end < 1, got {self.beta_start}, {self.beta_end}")
        check_dropout(dropout=self.dropout)
        if min(self.loss_weights) < 0 or not max(self.loss_weights) > 0:
            raise ConfigError(f"loss_weights must be >= 0 and not all 0, got {self.loss_weights}")
        if min(self.position_channels) < 0 or len(set(self.position_channels)) < 3:
            raise ConfigError(f"position_channels must be three different channels, got {self.position_channels}")
        if self.rescale is not None and not 0.5 <= self.rescale[0] <= self.rescale[1] <= 2:
            raise ConfigError(f"rescale must be (least factor, greatest factor) in 0.5..2, got {self.rescale}")
        if not (self.rotary_base > 1 and self.rotary_scale > 0 and self.bounds_buffer >= 0):
            raise ConfigError("expected rotary_base > 1, rotary_scale > 0 and bounds_buffer >= 0")
        if self.bounds is not None and not all(a < b for a, b in zip(*self.bounds, strict=True)):
            raise ConfigError(f"bounds must be (lowest corner, highest corner) in metres, got {self.bounds}")

    @property
    def clip_range(self) -> float | None:
        """Clean poses are clipped to the workspace whatever the normalisation of actions, unless ``clip`` says else."""
        return 1.0 if self.clip == "auto" else self.clip
