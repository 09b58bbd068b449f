"""Configuration: presets, overrides, and messages that name the key, the nearest name and the place."""

from __future__ import annotations

import dataclasses

import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.training.config import TrainConfig
from robopolicy.training.config_load import (
    config_from_dict,
    config_to_dict,
    find_preset,
    load_config,
    policy_config_class,
    save_config,
)
from robopolicy.training.describe import describe
from robopolicy.training.overrides import merge, split_arguments

PRESET = """
dataset:
  path: somewhere
policy:
  type: diffusion
  horizon: 16
optimizer:
  lr: 3e-4
steps: 100
"""


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(PRESET)
    return path


def test_overrides_win_and_are_typed(preset):
    config = load_config(
        preset,
        {
            "steps": "7",
            "policy.horizon": "32",
            "optimizer.betas": "[0.5, 0.9]",
            "ema.enabled": "false",
            "env": "pusht",
            "env.kwargs.max_steps": "50",
            "dataset.episodes": "[3, 1]",
            "optimizer.grad_clip": "null",
        },
    )
    assert (config.steps, config.policy.horizon, config.optimizer.betas) == (7, 32, (0.5, 0.9))
    assert (config.ema.enabled, config.optimizer.grad_clip, config.dataset.episodes) == (False, None, (3, 1))
    assert (config.env.name, config.env.kwargs) == ("pusht", {"max_steps": 50})
    assert config.optimizer.lr == 3e-4  # YAML reads "3e-4" as text; the type makes it a number


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stps": "7"}, r"command line --stps: unknown key 'stps'; did you mean 'steps'"),
        (
            {"policy.horizn": "7"},
            r"command line --policy\.horizn: policy: unknown key 'horizn'; did you mean 'horizon'",
        ),
        ({"policy.unet.down_dim": "[8]"}, r"--policy\.unet\.down_dim: .*did you mean 'down_dims'"),
        ({"optimizer.learning_rate": "1"}, r"--optimizer\.learning_rate: unknown key 'optimizer.learning_rate'"),
        ({"steps": "many"}, r"command line --steps: steps: .*'many'"),
        ({"steps": "0"}, r"--steps: steps: .*greater than or equal to 1"),
        ({"policy.type": "difusion"}, r"unknown policy 'difusion'; did you mean 'diffusion'"),
        ({"policy.n_action_steps": "16"}, r"n_action_steps=16 does not fit"),
        ({"eval.every": "5"}, r"env is null"),
        ({"steps.more": "5"}, r"'steps' is the value 100, not a group"),
        ({"grad_accumulation": "65"}, r"grad_accumulation=65"),
        ({"precision": "fp8"}, r"--precision: precision: .*'fp32' or 'bf16'"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(preset, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(preset, overrides)
    assert "\n" not in str(caught.value)


def test_a_wrong_key_in_a_file_names_the_file(preset):
    preset.write_text(PRESET.replace("horizon", "horizont"))
    with pytest.raises(ConfigError, match=r"p\.yaml: policy: unknown key 'horizont'; did you mean 'horizon'"):
        load_config(preset)


def test_missing_required_keys_and_broken_yaml(preset):
    preset.write_text("policy: {type: diffusion}")
    with pytest.raises(ConfigError, match=r"p\.yaml: missing key 'dataset'"):
        load_config(preset)
    preset.write_text("steps: [1")
    with pytest.raises(ConfigError, match=r"p\.yaml: not valid YAML.*line 1"):
        load_config(preset)
    preset.write_text("- 1")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(preset)


def test_a_missing_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'configs/pusht_state/diffusion.yaml'"):
        find_preset("configs/pusht_stat/diffusion.yaml")


def test_saved_configuration_reads_back_equal(preset, tmp_path):
    config = load_config(preset, {"env": "pusht", "dataset.image_size": "[32, 48]"})
    save_config(config, tmp_path / "out.yaml")
    again = load_config(tmp_path / "out.yaml")
    assert again == config
    assert config_from_dict(config_to_dict(config)) == config


def test_configurations_are_frozen(preset):
    config = load_config(preset)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


OTHERS = ("suites", "critics", "finetune")  # no trainings of policies


def test_every_shipped_preset_loads(repo_root):
    presets = sorted(p for p in (repo_root / "configs").rglob("*.yaml") if p.parent.name not in OTHERS)
    assert len(presets) >= 7
    for path in presets:
        config = load_config(path)
        assert config.optimizer.warmup_steps < config.steps, path
        assert path.read_text().startswith("#"), f"{path}: says nothing about itself"


def test_arguments_split_into_words_and_flags():
    words, flags = split_arguments(["a.yaml", "--x.y", "1", "--run-dir=z", "--neg", "-1"])
    assert (words, flags) == (["a.yaml"], {"x.y": "1", "run_dir": "z", "neg": "-1"})
    with pytest.raises(ConfigError, match="--x has no value"):
        split_arguments(["--x"])
    with pytest.raises(ConfigError, match="given twice"):
        split_arguments(["--x", "1", "--x=2"])


def test_merge_leaves_its_arguments_alone():
    data = {"a": {"b": [1]}}
    merged = merge(data, {"a.c": "2"})
    merged["a"]["b"].append(2)
    assert data == {"a": {"b": [1]}}
    assert merged == {"a": {"b": [1, 2], "c": 2}}


def test_the_long_help_lists_every_field():
    text = describe()

    def names(cls, prefix=""):
        for field in dataclasses.fields(cls):
            yield f"{prefix}{field.name}"

    for name in [*names(TrainConfig), *names(policy_config_class("diffusion"), "policy.")]:
        assert f"--{name} " in text or f"\n{name}: " in text or f"--{name}." in text, name
    assert "--optimizer.lr float (0.0001)\n        Peak learning rate." in text
    assert "--dataset.path str (required)" in text
