"""Key poses from end to end: demonstrations are recorded, a policy learns the next key pose, is saved and evaluated."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from robopolicy.core.specs import ACTION, DEPTH, IMAGES, STATE, ActionSpace
from robopolicy.datasets.keypose_config import KeyposeConfig
from robopolicy.datasets.keyposes import Keyposes
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.writer import Writer
from robopolicy.evaluation.rollout import evaluate
from robopolicy.policies.io import load_policy
from robopolicy.sim.collect import collect
from robopolicy.sim.registry import EnvConfig
from robopolicy.testing.heads import TINY_ACTOR, TINY_SCENE
from robopolicy.testing.tiny import tiny_spec
from robopolicy.testing.training import losses, tiny_train_config
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.data import Demonstrations
from robopolicy.training.loop import train

KEYS = [STATE, IMAGES + "front", DEPTH + "front"]
LIFT = EnvConfig("panda_lift", {"cameras": ["front"], "image_size": [32, 32], "depth": True, "max_steps": 12})
POLICY = {
    "type": "diffuser_actor_3d",
    "mode": "keypose",
    "observation_keys": KEYS,
    "horizon": 8,
    "n_action_steps": 4,
    "scene": TINY_SCENE,
    "num_inference_steps": 4,
    **TINY_ACTOR,
}


@pytest.mark.render
@pytest.mark.slow
def test_key_poses_of_recorded_demonstrations_are_learned_and_executed(tmp_path):
    record = EnvConfig("panda_lift", {k: v for k, v in LIFT.kwargs.items() if k != "max_steps"})
    collect(record, tmp_path / "data", 2, workers=0)
    config = tiny_train_config(
        tmp_path / "data", {"policy": POLICY, "policy.observation_keys": KEYS, "steps": 4, "batch_size": 4}
    )
    demos = Demonstrations.open(config.dataset)
    train(config, tmp_path / "run", progress=False)
    assert np.isfinite([loss for _, loss in losses(tmp_path / "run")]).all()
    policy = load_policy(latest_checkpoint(tmp_path / "run") / "policy")
    assert policy.needs.keyposes
    windows = demos.windows(policy.observation_spec, policy.action_spec, demos.training, policy.needs)
    poses = windows.gather(np.arange(len(windows)))[ACTION]
    assert (poses == poses[:, :1]).all()
    assert 4 <= len(np.unique(poses[:, 0], axis=0)) <= 20  # at least: shut the gripper, and the end, of two episodes
    record = evaluate(policy, LIFT, episodes=2, workers=0, progress=False)
    assert len(record.episodes) == 2
    assert not [e for e in record.episodes if e.error]


def test_demonstrations_that_never_rest_are_warned_about(tmp_path, caplog):
    space = ActionSpace(4, names=("x", "y", "z", "gripper"), mode="absolute", low=(-9.0,) * 4, high=(9.0,) * 4)
    with Writer(tmp_path, 10, tiny_spec(3), space) as writer:
        for way in (1.0, -1.0):
            for t in np.linspace(0, 1, 30):
                place = np.array([way * t, t, 0.1 + t], np.float32)
                writer.add_frame({STATE: place}, np.append(place, 0.0).astype(np.float32), "go there")
            writer.save_episode()
    reader = Reader(tmp_path)
    with caplog.at_level(logging.WARNING):
        Keyposes(reader, reader.episodes, KeyposeConfig())
    assert "no key pose but their last frame" in caplog.text
    assert "raise dataset.keyposes.still (now 0.1)" in caplog.text
