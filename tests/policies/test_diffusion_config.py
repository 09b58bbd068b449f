"""Configuration of the Diffusion Policy head: contradictions are refused when it is made, by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from robopolicy.core.configs import build_config, dump_config
from robopolicy.core.errors import ConfigError
from robopolicy.policies.backbone_config import UnetConfig
from robopolicy.policies.diffusion_config import DiffusionConfig
from robopolicy.policies.normalization_config import NormalizationConfig
from robopolicy.policies.registry import POLICIES, policy_config

GAUSSIAN = NormalizationConfig(action="gaussian")

REFUSED = [
    ({"num_inference_steps": 0}, "num_inference_steps must be in 1..num_train_steps=100, got 0"),
    ({"num_inference_steps": -3}, "num_inference_steps must be in"),
    ({"num_inference_steps": 101}, "num_inference_steps must be in 1..num_train_steps=100, got 101"),
    ({"num_train_steps": 0, "num_inference_steps": 0}, "num_train_steps must be >= 1"),
    ({"n_action_steps": 16}, "horizon - n_obs_steps \\+ 1 = 15"),
    ({"horizon": 18}, "horizon=18 must be a multiple of 4"),
    ({"n_obs_steps": 0}, "must be >= 1"),
    ({"clip": 0.0}, "clip must be > 0"),
    ({"normalization": GAUSSIAN}, "clip: gaussian normalisation"),
    ({"normalization": {"action": "quantile"}}, "clip: quantile normalisation"),
    ({"horizn": 8}, "unknown key 'horizn'; did you mean 'horizon'"),
    ({"unet": {"down_dim": [8]}}, "unknown key 'unet.down_dim'; did you mean 'down_dims'"),
    ({"unet": {"down_dims": (12, 16)}}, "unet: every entry of down_dims .* multiple of n_groups=8"),
    ({"transformer": {"n_emb": 10, "n_head": 4}}, "transformer: n_emb=10 must be a multiple of"),
    ({"prediction": "sample"}, "prediction: input should be 'epsilon', 'x0' or 'v', got 'sample'"),
    ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start <= beta_end"),
    ({"encoder_weight_decay": -1.0}, "encoder_weight_decay must be >= 0"),
    ({"observation_keys": ()}, "observation_keys is empty"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED)
def test_contradictions_are_config_errors(values, words):
    with pytest.raises(ConfigError, match=words) as e:
        DiffusionConfig(**values)
    assert "\n" not in str(e.value)


def test_clip_follows_the_normaliser_unless_it_is_explicit():
    assert DiffusionConfig().clip_range == 1.0
    assert DiffusionConfig(normalization=GAUSSIAN, clip=5.0).clip_range == 5.0
    assert DiffusionConfig(normalization=GAUSSIAN, clip=None).clip_range is None


def test_the_transformer_takes_any_horizon():
    assert DiffusionConfig(backbone="transformer", horizon=10).horizon == 10


def test_configs_survive_plain_data_and_command_line_texts():
    config = DiffusionConfig(unet=UnetConfig(down_dims=(16, 32)), clip=None, sampler_options={"eta": 0.5})
    assert build_config(DiffusionConfig, dump_config(config)) == config
    typed = policy_config(
        {"type": "diffusion", "horizon": "32", "clip": "2.5", "encoder": {"image": {"crop": [84, 84]}}}
    )
    assert (typed.horizon, typed.clip, typed.encoder.image.crop) == (32, 2.5, (84, 84))
    assert policy_config({"type": "diffusion", "clip": "auto"}).clip == "auto"


def test_unknown_heads_are_named_with_the_file():
    with pytest.raises(ConfigError, match=r"a\.yaml: unknown policy type 'difusion'; did you mean 'diffusion'"):
        policy_config({"type": "difusion"}, "a.yaml")
    with pytest.raises(ConfigError, match="expected a mapping with 'type'"):
        policy_config({"horizon": 3})


def test_configs_are_known_without_torch():
    code = "import sys; from robopolicy.policies.registry import POLICIES; POLICIES.get('diffusion')[0]()"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    config_class, policy_class = POLICIES.get("diffusion")
    assert (config_class.__name__, policy_class.__name__) == ("DiffusionConfig", "DiffusionPolicy")
