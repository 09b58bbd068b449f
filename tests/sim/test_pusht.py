"""PushT against its oracles: published starts, coverage geometry, key points, recorded demonstrations, pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ENVIRONMENT_STATE, STATE, FeatureKind, kind_of_key
from robopolicy.sim import pusht
from robopolicy.sim.pusht import GOAL_POSE, IMAGE, OUTLINE, PushT, coverage, keypoints, place, start_state
from robopolicy.sim.pusht_picture import PushTEnv

X, Y, A = GOAL_POSE
ALONG, ACROSS = np.array((math.cos(A), math.sin(A))), np.array((-math.sin(A), math.cos(A)))
COG = np.array((0.0, 45.0))


def moved(offset: np.ndarray) -> tuple[float, float, float]:
    return (X + float(offset[0]), Y + float(offset[1]), A)


def turned_about(centre: np.ndarray, degrees: float) -> tuple[float, float, float]:
    """The goal pose turned about a point of the body frame."""
    fixed = place(centre[None], GOAL_POSE)[0]
    angle = A + math.radians(degrees)
    origin = fixed - place(centre[None], (0.0, 0.0, angle))[0]
    return (float(origin[0]), float(origin[1]), angle)


@pytest.fixture(scope="module")
def env() -> PushT:
    return PushT()


@pytest.fixture(scope="module")
def recorded(shared_data):
    import zarr

    path = shared_data / "pusht/pusht_cchi_v7_replay.zarr.zip"
    data = zarr.open(zarr.storage.ZipStore(path, mode="r"), mode="r")
    ends = data["meta/episode_ends"][:]
    return data, np.concatenate(([0], ends))


@pytest.mark.parametrize(
    ("seed", "state"), [(100000, (235, 124, 335, 128, -0.90493)), (0, (222, 97, 217, 292, 3.00800))]
)
def test_starts_are_the_published_ones(seed, state):
    np.testing.assert_allclose(start_state(seed), state, atol=5e-6)


def test_both_orders_place_the_block_as_chipmunk_does(env):
    env.set_state((0, 10, 200, 200, 1.0), order="angle_first")
    np.testing.assert_allclose(env.state, (0, 10, 200, 200, 1.0), atol=1e-9)
    env.set_state((0, 10, 200, 200, 1.0), order="position_first")
    np.testing.assert_allclose(env.state[2:], (237.9, 220.7, 1.0), atol=0.05)


def test_coverage_oracles():
    assert coverage(GOAL_POSE) == pytest.approx(1.0)
    for axis in (ALONG, ACROSS):
        for d in (1.0, 2.0, 2.625, 4.0):
            assert coverage(moved(d * axis)) == pytest.approx(1 - 120 * d / 6300, abs=1e-9)
    assert coverage(moved((ALONG + ACROSS) * math.sqrt(2))) == pytest.approx(0.94676, abs=2e-5)
    assert coverage(turned_about(np.zeros(2), 1.0)) == pytest.approx(0.97027, abs=1e-5)
    assert coverage(turned_about(COG, 1.0)) == pytest.approx(0.97961, abs=1e-5)
    assert coverage(turned_about(np.zeros(2), 1.689)) == pytest.approx(0.95, abs=5e-5)
    assert coverage(turned_about(COG, 2.484)) == pytest.approx(0.95, abs=5e-5)
    assert coverage((100.0, 100.0, 0.0)) == 0.0


def test_coverage_and_physics_equal_gym_pusht():
    theirs = PushTEnv(obs_type="state")
    theirs.reset(options={"reset_to_state": start_state(7)})
    ours = PushT(cameras=())
    ours.reset(7)
    np.testing.assert_array_equal(theirs.get_obs(), ours.state)
    rng = np.random.default_rng(0)
    for _ in range(40):
        target = np.clip(np.array(ours.block_pose[:2]) + rng.uniform(-60, 60, 2), 0, 512)
        _, reward, terminated, _, info = theirs.step(target)
        result = ours.step(target)
        np.testing.assert_array_equal(theirs.get_obs(), ours.state)
        assert result.reward == pytest.approx(float(reward), abs=1e-9)
        assert result.info["coverage"] == pytest.approx(info["coverage"], abs=1e-9)
        assert result.terminated == bool(terminated)


def test_success_ends_the_episode_and_scores_one(env):
    env.set_state((100, 100, *GOAL_POSE))
    result = env.step(np.array((100.0, 100.0)))
    assert (result.reward, result.success, result.terminated, result.truncated) == (1.0, True, True, False)


def test_score_is_the_largest_reward(env):
    env.set_state((400, 400, X + 6, Y, A))
    first = env.step(np.array((400.0, 400.0)))
    assert 0.8 < first.reward < 0.95
    best = first.reward
    for _ in range(30):  # push the block away
        result = env.step(np.array((250.0, 250.0)))
        best = max(best, result.reward)
    assert result.reward < best
    assert result.info["max_reward"] == best


def test_episode_is_cut_after_300_steps(env):
    env.reset(0)
    done = [env.step(np.array((20.0, 20.0))).truncated for _ in range(300)]
    assert done == [False] * 299 + [True]


@pytest.mark.shared_data
def test_keypoints_are_those_of_the_published_data(recorded, env):
    data, _ = recorded
    states, published = data["data/state"][:], data["data/keypoint"][:]
    residual = np.array([np.abs(keypoints(s[2:]) - k).max() for s, k in zip(states[::7], published[::7], strict=True)])
    assert np.median(residual) < 1e-4
    assert np.quantile(residual, 0.95) < 0.05  # frames whose key points are a physics step older than their state
    env.set_state(states[100])
    np.testing.assert_allclose(env.observe([ENVIRONMENT_STATE])[ENVIRONMENT_STATE], published[100].ravel(), atol=2e-2)
    np.testing.assert_allclose(env.observe([STATE])[STATE], states[100, :2], atol=1e-4)


@pytest.mark.shared_data
def test_keys_and_shapes_are_those_of_the_lerobot_dataset(shared_data, env):
    import json

    features = json.loads((shared_data / "pusht/lerobot_v30/meta/info.json").read_text())["features"]
    for feature in env.observation_spec.features:
        height_first = features[feature.key]["shape"]
        shape = tuple(height_first) if len(height_first) == 1 else (3, *height_first[:2])
        assert feature.shape == shape
        assert feature.kind is kind_of_key(feature.key)
        if feature.kind is FeatureKind.STATE:
            assert list(feature.names) == features[feature.key]["names"]
    assert list(env.action_space.names) == features["action"]["names"]


@pytest.mark.shared_data
def test_pictures_are_those_of_the_published_data(recorded, env):
    data, _ = recorded
    for i in (50, 60, 5000):
        env.set_state(data["data/state"][i])
        ours = env.observe([IMAGE])[IMAGE].transpose(1, 2, 0).astype(int)
        assert np.abs(ours - data["data/img"][i]).mean() < 0.5  # of 255; contact marks differ after a bare placement


def replay(env: PushT, states: np.ndarray, actions: np.ndarray) -> tuple[float, float]:
    env.set_state(states[0])
    deviation = best = 0.0
    for state, action in zip(states, actions, strict=True):
        deviation = max(deviation, float(np.abs(env.state[:4] - state[:4]).max()))
        best = env.step(action).info["max_reward"]
    return deviation, best


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "episodes", [range(0, 206, 20), pytest.param(range(206), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_recorded_demonstrations_replay(recorded, shared_data, env, episodes):
    data, bounds = recorded
    reference = np.load(shared_data / "pusht/replay_reference.npz")
    states, actions = data["data/state"][:], data["data/action"][:]
    deviations, scores = [], []
    for e in episodes:
        rows = slice(bounds[e], bounds[e + 1])
        deviation, best = replay(env, states[rows], actions[rows])
        deviations.append(deviation)
        scores.append(best)
        if reference["max_state_deviation_px"][e] < 0.01:  # the others amplify the last bit of the contact solver
            assert best == pytest.approx(float(reference["max_reward"][e]), abs=1e-6)
            assert deviation < 0.01
    assert np.mean(np.array(deviations) < 1.0) >= 0.99
    assert np.mean(scores) == pytest.approx(float(reference["max_reward"][list(episodes)].mean()), abs=1e-3)


def test_every_pixel_is_the_one_gym_pusht_draws(env):
    theirs = PushTEnv(obs_type="pixels")
    theirs.reset(seed=0)
    rng = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed)
        theirs.space, theirs.agent, theirs.block = env._space, env._agent, env._block
        for _ in range(15):
            env.step(rng.uniform(0, 512, 2))  # into the walls and the block, too
            np.testing.assert_array_equal(env.observe([IMAGE])[IMAGE].transpose(1, 2, 0), theirs._render())


def test_outline_area_and_cameras_option():
    x, y = OUTLINE.T
    assert abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 == pytest.approx(6300)
    assert IMAGE not in PushT(cameras=()).observation_spec
    assert PushT(image_size=(48, 64)).observe()[IMAGE].shape == (3, 48, 64)
    with pytest.raises(ConfigError, match="position_first or angle_first"):
        PushT(order="angle")  # type: ignore[arg-type]
    assert pusht.FPS == 10.0
