"""Fusion: feature sizes of the paper's tasks, order in time, cameras of different sizes, refusals."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import IMAGES, STATE, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.encoders.config import EncoderConfig, ImageEncoderConfig
from robopolicy.encoders.features import Features
from robopolicy.encoders.fusion import ObservationEncoder
from robopolicy.testing.tiny import TINY_ENCODER, tiny_spec

FRONT, WRIST = IMAGES + "front", IMAGES + "wrist"


@pytest.mark.parametrize(("cameras", "state", "step"), [(1, 2, 66), (2, 9, 137), (4, 18, 274), (0, 20, 20)])
def test_step_features_of_the_papers_tasks(cameras, state, step):
    spec = tiny_spec(state, {f"cam{i}": (84, 84) for i in range(cameras)})
    with torch.device("meta"):
        encoder = ObservationEncoder(spec, EncoderConfig())
    assert encoder.step_dim == step
    assert sum(p.numel() for p in encoder.parameters()) == cameras * 11_197_088


def observation(spec: ObservationSpec, batch: int = 3, steps: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f.key: torch.rand((batch, steps, *f.shape), generator=generator) for f in spec.features}


def test_vector_is_time_major_and_tokens_are_its_steps():
    spec = tiny_spec(3, {"front": (32, 32), "wrist": (24, 40)})
    encoder = ObservationEncoder(spec, TINY_ENCODER)
    obs = observation(spec)
    features = encoder(obs)
    assert features.tokens.shape == (3, 2, 19)
    assert torch.equal(features.vector, torch.cat([features.tokens[:, 0], features.tokens[:, 1]], dim=-1))
    assert torch.equal(features.tokens[..., -3:], obs[STATE])
    newest = encoder({k: v[:, 1:] for k, v in obs.items()})
    torch.testing.assert_close(newest.vector, features.tokens[:, 1])


def test_crops_move_only_what_the_camera_sees():
    spec = tiny_spec(3, {"front": (32, 32), "wrist": (24, 40)})
    encoder = ObservationEncoder(spec, TINY_ENCODER)
    obs = observation(spec)
    centred, corner = encoder(obs), {FRONT: torch.zeros(3, 2, 2), WRIST: torch.full((3, 2, 2), 0.5)}
    moved = encoder(obs, corner)
    assert not torch.allclose(moved.tokens[..., :8], centred.tokens[..., :8])
    assert torch.equal(moved.tokens[..., 16:], centred.tokens[..., 16:])


def test_shared_cameras_share_weights_and_keep_their_order():
    spec = tiny_spec(0, {"front": (32, 32), "wrist": (32, 32)})
    encoder = ObservationEncoder(spec, EncoderConfig(image=TINY_ENCODER.image, share_cameras=True))
    assert len(encoder.image_encoders) == 1
    obs = observation(spec)
    there, back = encoder(obs).tokens, encoder({FRONT: obs[WRIST], WRIST: obs[FRONT]}).tokens
    assert torch.equal(there, torch.cat([back[..., 8:], back[..., :8]], dim=-1))


def test_one_camera_can_have_its_own_settings():
    own = ImageEncoderConfig(backbone="tiny_cnn", channels=(16,), feature_dim=5, crop=None)
    spec = tiny_spec(2, {"front": (32, 32), "wrist": (16, 16)})
    encoder = ObservationEncoder(spec, EncoderConfig(image=TINY_ENCODER.image, cameras={WRIST: own}))
    assert encoder.step_dim == 8 + 5 + 2


def test_state_network_is_optional():
    spec = tiny_spec(4)
    encoder = ObservationEncoder(spec, EncoderConfig(state_hidden=(16, 8)))
    assert encoder(observation(spec)).tokens.shape == (3, 2, 8)
    assert sum(p.numel() for p in encoder.parameters()) == 4 * 16 + 16 + 16 * 8 + 8


def test_features_repeat_and_select_rows():
    features = Features(torch.arange(4.0).reshape(2, 2), torch.arange(8.0).reshape(2, 2, 2))
    assert features.repeat_interleave(2).vector[:, 0].tolist() == [0, 0, 2, 2]
    assert features.index_select(torch.tensor([1])).tokens.tolist() == [[[4, 5], [6, 7]]]
    assert features.index_select(torch.tensor([1])).positions is None
    assert (features.batch_size, features.repeat_interleave(3).batch_size) == (2, 6)


REFUSED = [
    (ObservationSpec((FeatureSpec("observation.depth.d", (1, 8, 8), FeatureKind.DEPTH),)), EncoderConfig(), "depth"),
    (ObservationSpec((FeatureSpec(STATE, (2, 3), FeatureKind.STATE),)), EncoderConfig(), "vector shape"),
    (ObservationSpec(()), EncoderConfig(), "nothing to encode"),
    (tiny_spec(1, {"front": (8, 8)}), EncoderConfig(cameras={FRONT + "t": TINY_ENCODER.image}), "did you mean"),
    (tiny_spec(0, {"a": (32, 32), "b": (24, 24)}), EncoderConfig(share_cameras=True), "share_cameras"),
]


@pytest.mark.parametrize(("spec", "config", "words"), REFUSED)
def test_what_cannot_be_encoded_is_refused_by_name(spec, config, words):
    with pytest.raises(ConfigError, match=words):
        ObservationEncoder(spec, config)
