"""Whole runs on depth and on language: the vocabulary is that of the data, and the saved policy acts on its own."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from robopolicy.core.errors import InvalidObservation
from robopolicy.core.specs import DEPTH, STATE, TASK, ActionSpace
from robopolicy.datasets.writer import Writer
from robopolicy.policies.io import load_policy
from robopolicy.testing.datasets import TASKS, make_tiny_dataset
from robopolicy.testing.tiny import random_observation, tiny_spec
from robopolicy.testing.training import losses, tiny_train_config
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.loop import train

FRONT = DEPTH + "front"


def test_a_language_run_learns_the_sentences_of_its_data(tmp_path):
    data = make_tiny_dataset(tmp_path / "data", cameras=0)
    config = tiny_train_config(data, {"policy.observation_keys": [STATE, TASK], "steps": 4})
    train(config, tmp_path / "run", stop_at=3)
    checkpoint = latest_checkpoint(tmp_path / "run")
    policy = load_policy(checkpoint / "policy")
    assert policy.config.encoder.language.vocabulary == tuple(sorted(TASKS))
    saved = yaml.safe_load((checkpoint / "training" / "config.yaml").read_text())
    assert saved["policy"]["encoder"]["language"]["vocabulary"] == sorted(TASKS)
    state = {STATE: np.zeros((1, 2, 4), np.float32)}
    assert policy.act({**state, TASK: [[TASKS[0]] * 2]}).actions.shape == (1, 8, 2)
    with pytest.raises(InvalidObservation, match="did you mean 'reach the marker'"):
        policy.act({**state, TASK: [["reach a marker"] * 2]})
    train(config, tmp_path / "run", resume=True)  # its words come from the checkpoint and from the same data
    assert [step for step, _ in losses(tmp_path / "run")][-1] == 4


def test_a_depth_run_trains_saves_and_acts(tmp_path):
    spec = tiny_spec(2, None, {"front": (8, 8)})
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "data", 10, spec, ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))) as writer:
        for _ in range(2):
            for _ in range(20):
                obs = {STATE: rng.uniform(-1, 1, 2), FRONT: rng.uniform(0.5, 1.5, (1, 8, 8))}
                writer.add_frame(obs, rng.uniform(-1, 1, 2), "reach it")
            writer.save_episode()
    cloud = {"n_points": 8, "channels": [8], "feature_dim": 4}
    changes = {"policy.observation_keys": [STATE, FRONT], "policy.encoder.point_cloud": cloud, "steps": 3}
    train(tiny_train_config(tmp_path / "data", changes), tmp_path / "run")
    policy = load_policy(latest_checkpoint(tmp_path / "run") / "policy")
    assert policy.observation_spec == spec
    assert FRONT not in policy.stats
    assert np.isfinite(policy.act(random_observation(policy, 2)).actions).all()
