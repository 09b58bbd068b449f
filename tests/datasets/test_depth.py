"""Depth, poses and calibration go through a dataset unchanged, and windows gather them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES, STATE, ActionSpace, FeatureKind
from robopolicy.datasets.doctor import diagnose, exit_code
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.datasets.writer import Writer
from robopolicy.testing.tiny import random_poses, tiny_spec

FRONT, POSE = DEPTH + "front", CAMERA_POSE + "front"
SPEC = tiny_spec(2, None, {"front": (6, 8)}, moving=["front"])
SPACE = ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))


def frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {
            STATE: rng.standard_normal(2).astype(np.float32),
            FRONT: rng.uniform(0.0, 3.0, (1, 6, 8)).astype(np.float32),
            POSE: random_poses(rng, ()),
        }
        for _ in range(count)
    ]


def write(root: Path, lengths: tuple[int, ...] = (9, 7)) -> list[dict[str, np.ndarray]]:
    written = []
    with Writer(root, 10, SPEC, SPACE) as writer:
        for number, length in enumerate(lengths):
            episode = frames(length, number)
            for obs in episode:
                writer.add_frame(obs, np.zeros(2, np.float32), "reach it")
            writer.save_episode()
            written += episode
    return written


def test_numbers_and_calibration_come_back_as_written(tmp_path):
    written = write(tmp_path / "set")
    reader = Reader(tmp_path / "set")
    assert reader.observation_spec() == SPEC
    assert reader.observation_spec()[FRONT].camera is not None
    for key in (FRONT, POSE):
        assert reader.columns[key].dtype == np.float32
        assert np.array_equal(reader.columns[key], np.stack([obs[key] for obs in written]))


def test_windows_gather_depth_and_poses(tmp_path):
    written = write(tmp_path / "set")
    windows = Windows(Reader(tmp_path / "set"), SPEC, 2, 4, 2, in_memory=True)
    batch = windows.gather(np.arange(len(windows)))
    assert batch[FRONT].shape == (len(windows), 2, 1, 6, 8)
    assert batch[POSE].shape == (len(windows), 2, 4, 4)
    for row, newest in enumerate(batch["index"]):
        assert np.array_equal(batch[FRONT][row, -1], written[newest][FRONT])
        assert np.array_equal(batch[POSE][row, -1], written[newest][POSE])


def test_a_resumed_recording_keeps_the_calibration(tmp_path):
    write(tmp_path / "set", (5,))
    with Writer.resume(tmp_path / "set") as writer:
        for obs in frames(4, 7):
            writer.add_frame(obs, np.zeros(2, np.float32), "reach it")
        writer.save_episode()
    reader = Reader(tmp_path / "set")
    assert (reader.observation_spec(), reader.num_frames) == (SPEC, 9)


def test_the_kind_of_depth_without_our_own_record(tmp_path):
    """Sets of another writer have no calibration: kinds follow the keys, and the camera is unknown."""
    write(tmp_path / "set")
    info = tmp_path / "set/meta/info.json"
    data = json.loads(info.read_text())
    del data["robopolicy"]
    info.write_text(json.dumps(data))
    spec = Reader(tmp_path / "set").observation_spec()
    assert (spec[FRONT].kind, spec[FRONT].camera) == (FeatureKind.DEPTH, None)
    assert spec[POSE].kind is FeatureKind.POSE


def test_the_doctor_finds_nothing_wrong(tmp_path):
    write(tmp_path / "set")
    assert exit_code(diagnose(tmp_path / "set")) == 0


@pytest.mark.render
def test_what_the_simulator_saw_is_what_is_recorded(tmp_path):
    from robopolicy.sim.tasks.push import PandaPush

    env = PandaPush(cameras=("front", "wrist"), image_size=(16, 16), depth=True)
    try:
        env.reset(1)
        seen = []
        with Writer(tmp_path / "set", env.fps, env.observation_spec, env.action_space, image_storage="png") as writer:
            for _ in range(3):
                seen.append(env.observe())
                writer.add_frame(seen[-1], np.array((*env.arm.setpoint, 1.0)), env.task)
                env.step(np.array((*(env.arm.setpoint + 0.01), 1.0)))
            writer.save_episode()
        spec = env.observation_spec
    finally:
        env.close()
    reader = Reader(tmp_path / "set")
    assert reader.observation_spec() == spec
    for key in (DEPTH + "front", DEPTH + "wrist", CAMERA_POSE + "wrist"):
        assert np.array_equal(reader.columns[key], np.stack([obs[key] for obs in seen]))
    poses = reader.columns[CAMERA_POSE + "wrist"]
    assert not np.array_equal(poses[0], poses[2])
    assert np.array_equal(reader.frames(IMAGES + "wrist", np.arange(3)), np.stack([o[IMAGES + "wrist"] for o in seen]))
