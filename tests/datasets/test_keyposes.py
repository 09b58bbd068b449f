"""Key poses: the published rules on made demonstrations, resampling oracles, and windows that carry the next one."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.keypose_config import KeyposeConfig
from robopolicy.datasets.keyposes import Keyposes, accelerations, resample, stops
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.datasets.writer import Writer

STATE_NAMES = ("tool_x", "tool_y", "tool_z", "gripper_width")
ACTION_NAMES = ("x", "y", "z", "gripper")
LENGTH = 40


def switched(length, *frames):
    """A gripper that changes at ``frames``, ``(T, 1)``."""
    return (np.searchsorted(frames, np.arange(length), side="right") % 2 == 1)[:, None]


def resting(length, *frames):
    still = np.zeros(length, bool)
    still[list(frames)] = True
    return still


def test_one_gripper_change_and_two_stops():
    found = stops(resting(30, 6, 7, 8, 21), switched(30, 14))
    assert found.tolist() == [6, 14, 21, 29]


def test_of_two_adjacent_frames_at_the_end_the_first_is_dropped():
    assert stops(resting(30, 6), switched(30, 14, 28)).tolist() == [6, 14, 29]
    assert stops(resting(30, 6), switched(30, 14, 27)).tolist() == [6, 14, 27, 29]


def test_a_long_rest_counts_again_after_the_gap():
    assert stops(resting(30, *range(5, 15)), switched(30)).tolist() == [5, 9, 13, 29]
    assert stops(resting(30, *range(5, 15)), switched(30), gap=6).tolist() == [5, 11, 29]


def test_no_stop_beside_a_gripper_change_or_at_the_ends():
    still = resting(30, 0, 13, 14, 15, 28, 29)
    assert stops(still, switched(30, 14)).tolist() == [14, 15, 29]
    assert stops(np.ones(1, bool), switched(1)).tolist() == [0]


def test_two_grippers_count_apart():
    both = np.concatenate([switched(30, 9), switched(30, 17)], axis=1)
    assert stops(np.zeros(30, bool), both).tolist() == [9, 17, 29]


def test_accelerations_follow_calvins_rule():
    position = np.zeros((40, 3))
    position[10:, 0] += 0.2 * np.arange(30)  # sets off at frame 10
    position[30:, 1] += 0.4 * np.arange(10)  # turns at frame 30
    found = accelerations(position, switched(40, 20)).tolist()
    assert found == [10, 19, 20, 30, 39]


def test_of_close_peaks_the_larger_stays():
    position = np.zeros((40, 3))
    for frame, jolt in ((10, 1.0), (13, 2.0), (30, 1.5)):
        position[frame:, 2] += jolt * np.arange(40 - frame)
    found = accelerations(position, switched(40), gap=6)
    assert found.tolist() == [13, 30, 39]
    assert accelerations(np.zeros((12, 3)), switched(12)).tolist() == [11]


def test_resampling_oracles():
    track = np.array([[0.0, 1.0], [1.0, 1.0], [4.0, 0.0], [9.0, 0.0]])
    found = resample(track, 5, linear=(1,))
    np.testing.assert_allclose(found[:, 0], [0, 0.5625, 2.25, 5.0625, 9], atol=1e-12)
    np.testing.assert_allclose(found[:, 1], [1, 1, 0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(resample(track, 4), track, atol=1e-12)
    np.testing.assert_array_equal(resample(track[:1], 3), np.repeat(track[:1], 3, axis=0))
    np.testing.assert_allclose(resample(track[:2], 3)[1], [0.5, 1.0])


def test_resampled_quaternions_ignore_signs_and_stay_unit():
    angle = np.linspace(0, 2.0, 7)
    turn = np.stack([np.cos(angle / 2), np.zeros(7), np.zeros(7), np.sin(angle / 2)], axis=1)
    track = np.concatenate([np.zeros((7, 3)), turn], axis=1)
    flipped = track.copy()
    flipped[[2, 3, 6], 3:] *= -1
    found = resample(flipped, 25, quaternions=(3,))
    np.testing.assert_allclose(found, resample(track, 25, quaternions=(3,)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found[:, 3:], axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(2 * np.arctan2(found[:, 6], found[:, 3]), np.linspace(0, 2.0, 25), atol=1e-3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two demonstrations: out, a rest from frame 10 to 13, on, the gripper closes at frame 25, up."""
    return write(tmp_path_factory.mktemp("k") / "set")


def write(path, mode="absolute", action_names=ACTION_NAMES):
    observed = ObservationSpec((FeatureSpec("observation.state", (4,), FeatureKind.STATE, STATE_NAMES),))
    with Writer(path, 20, observed, ActionSpace(4, action_names, mode=mode)) as writer:
        for episode in range(2):
            for t in range(LENGTH):
                out = min(t, 10) + max(t - 13, 0)
                place = np.array([0.01 * out, 0.0, 0.02 * max(t - 25, 0), 0.0], np.float32)
                closed = float(t >= 25)
                action = np.array([place[0], episode, place[2], closed], np.float32)
                writer.add_frame({"observation.state": place}, action, "pick")
            writer.save_episode()
    return path


def test_key_poses_of_data_without_velocities(root):
    found = Keyposes(Reader(root), Reader(root).episodes, KeyposeConfig())
    assert [frames.tolist() for frames in found.frames.values()] == [[11, 25, 39]] * 2
    assert found.next_row.tolist() == [*[11] * 11, *[25] * 14, *[39] * 15, *[51] * 11, *[65] * 14, *[79] * 15]


def test_windows_carry_the_action_at_the_next_key_pose(root):
    reader = Reader(root)
    windows = Windows(reader, reader.observation_spec(), 2, 4, 1, needs=WindowNeeds(keyposes=True), anchors="all")
    batch = windows.gather(np.array([0, 11, 39, 64]))
    want = reader.columns["action"][[11, 25, 39, 65]]
    np.testing.assert_array_equal(batch["action"], np.repeat(want[:, None], 4, axis=1))
    assert not batch["action_is_pad"].any()
    np.testing.assert_array_equal(batch["observation.state"][1], reader.columns["observation.state"][[10, 11]])
    other = Windows(
        reader, reader.observation_spec(), 2, 4, 1, needs=WindowNeeds(keyposes=True), anchors="all",
        keyposes=KeyposeConfig(gripper=()),
    )  # fmt: skip
    assert windows.layout["windows"] == other.layout["windows"] == 80
    assert windows.layout["keyposes"] != other.layout["keyposes"]


def test_options_choose_channels_and_thresholds(root):
    reader = Reader(root)
    frames = lambda **options: Keyposes(reader, reader.episodes[:1], KeyposeConfig(**options)).frames[0].tolist()
    assert frames(gripper=()) == [11, 39]
    assert frames(motion=("tool_z",), gripper=()) == [1, 5, 9, 13, 17, 21, 39]
    assert frames(rule="accelerations")[-3:] == [24, 25, 39]


def test_recorded_velocities_are_compared_in_their_own_unit(tmp_path):
    names = ("arm_vel",)
    observed = ObservationSpec((FeatureSpec("observation.state", (1,), FeatureKind.STATE, names),))
    with Writer(tmp_path / "v", 20, observed, ActionSpace(1, ("gripper",), mode="absolute")) as writer:
        for t in range(20):
            speed = np.array([0.09 if t == 8 else -0.2], np.float32)
            writer.add_frame({"observation.state": speed}, np.zeros(1, np.float32), "go")
        writer.save_episode()
    reader = Reader(tmp_path / "v")
    assert Keyposes(reader, reader.episodes, KeyposeConfig()).frames[0].tolist() == [8, 19]
    assert Keyposes(reader, reader.episodes, KeyposeConfig(still=0.05)).frames[0].tolist() == [19]


def test_what_cannot_be_told_is_asked_for(root, tmp_path):
    reader = Reader(root)
    with pytest.raises(ConfigError, match=r"keyposes\.motion: no channel 'tool_w'; did you mean 'tool_"):
        Keyposes(reader, reader.episodes, KeyposeConfig(motion=("tool_w",)))
    with pytest.raises(ConfigError, match=r"no vector 'observation\.stat'; did you mean 'observation\.state'"):
        Keyposes(reader, reader.episodes, KeyposeConfig(motion_key="observation.stat"))
    with pytest.raises(ConfigError, match="need the tool's x, y and z"):
        Keyposes(reader, reader.episodes, KeyposeConfig(rule="accelerations", motion=("tool_x",)))
    nameless = Reader(write(tmp_path / "nameless", action_names=("a", "b", "c", "d")))
    with pytest.raises(ConfigError, match=r"no action channel .* is called gripper"):
        Keyposes(nameless, nameless.episodes, KeyposeConfig())
    relative = Reader(write(tmp_path / "relative", mode="delta"))
    with pytest.raises(ConfigError, match="need absolute actions"):
        Keyposes(relative, relative.episodes, KeyposeConfig())
    with pytest.raises(ConfigError, match="still > 0"):
        KeyposeConfig(still=0)
