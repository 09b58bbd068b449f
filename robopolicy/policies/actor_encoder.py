"""What 3D Diffuser Actor observes: scene tokens with places and, when asked for, the words of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import TASK, FeatureKind, ObservationSpec
from robopolicy.encoders.cameras import color_key
from robopolicy.encoders.config import LanguageConfig, SceneConfig
from robopolicy.encoders.features import Features
from robopolicy.encoders.language import LanguageEncoder
from robopolicy.encoders.scene import SceneEncoder

TEXT, TEXT_MASK = "text", "text_mask"


class ActorEncoder(nn.Module):
    """Inputs of a policy to ``Features``; ``extras`` hold ``valid``, and ``text`` with ``text_mask`` if read."""

    cameras: tuple[Any, ...] = ()  # pictures that are cropped alone: none, as their points have to follow
    temporal = None

    def __init__(
        self, spec: ObservationSpec, scene: SceneConfig, language: LanguageConfig, dim: int, load_weights: bool
    ) -> None:
        """``dim`` is the width of scene tokens; raises ``ConfigError`` for a picture without depth."""
        super().__init__()
        colours = {color_key(f.key) for f in spec.of_kind(FeatureKind.DEPTH)}
        flat = [f.key for f in spec.of_kind(FeatureKind.IMAGE) if f.key not in colours]
        if colours and flat:
            raise ConfigError(
                f"{flat[0]} has no depth beside it, and tokens need places; name the other keys in observation_keys"
            )
        self.scene = SceneEncoder(spec, scene, dim, load_weights)
        self.language = LanguageEncoder(language, load_weights) if TASK in spec else None
        if self.language is not None and hasattr(self.language, "project"):
            self.language.project.requires_grad_(False)  # of the pooled vector, which this head does not read

    @property
    def text_dim(self) -> int:
        """Width of text tokens, 0 without text."""
        return 0 if self.language is None else self.language.token_dim

    def forward(self, obs: Mapping[str, Any], rescale: Tensor | None = None) -> Features:
        """``obs`` are checked and on the device; only the newest step is read.  ``rescale`` as in ``SceneEncoder``."""
        features: Features = self.scene(obs, rescale)
        if self.language is None:
            return features
        sentences = np.asarray(obs[TASK], dtype=object)
        newest = sentences if sentences.ndim == 1 else sentences[:, -1]
        different, rows = np.unique(newest.astype(str), return_inverse=True)
        text = self.language(different.tolist())
        own = torch.from_numpy(rows).to(text.tokens.device)
        return features.with_extras(**{TEXT: text.tokens[own], TEXT_MASK: text.mask[own]})

    def tokens(self) -> int:
        """Number of scene tokens."""
        return self.scene.num_tokens


def words(extras: Mapping[str, Tensor], masked: bool) -> tuple[Tensor | None, Tensor | None]:
    """Text and its mask out of the extras; no mask when padding is to be attended to."""
    return extras.get(TEXT), extras.get(TEXT_MASK) if masked else None
