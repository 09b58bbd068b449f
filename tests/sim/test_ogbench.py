"""ogbench_cube gives the package's observations, tasks and success, and, unlike the package, repeats its episodes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import mujoco
import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, EnvUnavailable
from robopolicy.core.specs import GOAL, STATE, FeatureKind
from robopolicy.sim.registry import ENVS, EnvConfig, make_env
from robopolicy.testing.check_env import RULES, check_env

pytestmark = pytest.mark.skipif(find_spec("ogbench") is None, reason="needs ogbench: pip install 'robopolicy[ogbench]'")
CENTRE = np.array((0.425, 0.0, 0.0))  # of the package's scaled positions, which are in units of 0.1 m
CUBES = (slice(19, 22), slice(28, 31))


@pytest.fixture(scope="module")
def env():
    env = make_env("ogbench_cube")
    yield env
    env.close()


def put_cubes(env, state: np.ndarray) -> None:
    """Place both cubes as an observation ``(37,)`` shows them."""
    for i, place in enumerate(CUBES):
        joint = env.data.joint(f"object_joint_{i}")
        joint.qpos[:3] = state[place] / 10 + CENTRE
        joint.qpos[3:] = state[place.stop : place.stop + 4]
        joint.qvel[:] = 0


@pytest.mark.slow
@pytest.mark.render
def test_every_rule_of_an_environment():
    assert check_env(EnvConfig("ogbench_cube")) == list(RULES)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_package_alone_does_not_repeat(env):
    """Why the wrapper seeds the action space: the same seed gives other goals and other starts of the solver."""
    from robopolicy.sim.ogbench import CubeEnv

    plain = CubeEnv(env_type="double")
    goals = [plain.reset(seed=5, options={"task_id": 1})[1]["goal"] for _ in range(2)]
    assert not np.array_equal(goals[0], goals[1])
    ours = []
    for _ in range(2):
        env.reset(5)
        ours.append(env.observe([GOAL + STATE])[GOAL + STATE])
        env.reset(6)
    np.testing.assert_array_equal(ours[0], ours[1])


def test_cubes_at_the_goal_are_success(env):
    for seed in range(5):
        env.reset(seed)
        obs = env.observe()
        assert env.step(np.zeros(5)).info["task"] == 1 + seed
        if seed < 3:  # the first cube only; in the other tasks the second one is in its way
            env.reset(seed)
            put_cubes(env, np.where(np.arange(37) < 28, obs[GOAL + STATE], obs[STATE]))
            half = env.step(np.zeros(5))
            assert (half.success, half.reward) in ((False, 0.5), (True, 1.0))
        env.reset(seed)
        put_cubes(env, obs[GOAL + STATE])
        result = env.step(np.zeros(5))
        assert (result.success, result.terminated, result.reward) == (True, True, 1.0)


def test_starts_are_unsolved_and_tasks_can_be_chosen(env):
    for seed in range(5):
        env.reset(seed)
        assert not env.step(np.zeros(5)).success
    stack = make_env("ogbench_cube", task=5)
    for seed in (0, 1):
        stack.reset(seed)
        goal = stack.observe([GOAL + STATE])[GOAL + STATE]
        assert sorted(goal[[c.stop - 1 for c in CUBES]].round(1)) == pytest.approx([0.2, 0.6], abs=0.05)
    with pytest.raises(ConfigError, match=r"expected 1\.\.5"):
        make_env("ogbench_cube", task=6)


def test_spec_and_length(env):
    assert env.max_steps == 500
    assert env.fps == 20.0
    assert env.observation_spec[GOAL + STATE].kind is FeatureKind.GOAL
    assert env.observation_spec[STATE].names == env.observation_spec[GOAL + STATE].names
    assert env.observation_spec[STATE].shape == (37,)
    short = make_env("ogbench_cube", max_steps=2)
    assert [short.step(np.zeros(5)).truncated for _ in range(2)] == [False, True]


def test_names_are_those_of_the_converted_play_data(env, repo_root):
    import yaml

    recipe = yaml.safe_load((repo_root / "datasets/recipes/ogbench_cube_double_npz.yaml").read_text())
    assert tuple(recipe["features"]["observation.state"]["names"]) == env.observation_spec[STATE].names
    assert tuple(recipe["action"]["names"]) == env.action_space.names
    assert tuple(recipe["action"]["low"]) == env.action_space.low


def test_it_is_described(env, repo_root):
    import yaml

    described = yaml.safe_load((repo_root / "sim/tasks.yaml").read_text())["ogbench_cube"]
    assert (described["task"], described["fps"], described["max_steps"]) == (env.task, env.fps, env.max_steps)
    assert tuple(described["action"]) == env.action_space.names


def test_importing_it_leaves_the_drawing_backend_alone():
    code = (
        "import os; before = os.environ.get('MUJOCO_GL')\n"
        "import robopolicy.sim.ogbench, sys\n"
        "assert os.environ.get('MUJOCO_GL') == before\n"
        "assert 'torch' not in sys.modules\n"
    )
    for backend in ({}, {"MUJOCO_GL": "egl"}):
        rest = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
        run = subprocess.run([sys.executable, "-c", code], env={**rest, **backend}, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")


def test_missing_package_is_one_line_with_its_cure(monkeypatch):
    def absent(name: str):
        raise ModuleNotFoundError("No module named 'ogbench'", name="ogbench")

    monkeypatch.setattr(ENVS, "get", absent)
    with pytest.raises(EnvUnavailable, match=r"robopolicy\[ogbench\]"):
        make_env("ogbench_cube")


@pytest.mark.shared_data
def test_observations_have_the_scaling_of_the_play_data(env, shared_data):
    """Rows of the published data, set as simulator states, are observed as those rows again."""
    rows = np.load(shared_data / "ogbench_play" / "ogbench_cube_double_play.npz")["observations"][::500]
    env.reset(0)
    inside = env._cubes
    for row in rows:
        put_cubes(env, row)
        env.data.qpos[inside._arm_joint_ids], env.data.qvel[inside._arm_joint_ids] = row[:6], row[6:12]
        env.data.qpos[inside._gripper_opening_joint_id] = row[17] / 3 * 0.8
        mujoco.mj_forward(env.model, env.data)
        seen = env.observe([STATE])[STATE]
        np.testing.assert_allclose(seen[:12], row[:12], atol=1e-6)
        np.testing.assert_allclose(
            seen[12:17], row[12:17], atol=0.01
        )  # the package reports these one physics step late
        assert seen[17] == pytest.approx(row[17], abs=1e-6)
        for cube in CUBES:
            place = slice(cube.start, cube.stop + 4)
            np.testing.assert_allclose(seen[place], row[place], atol=1e-5)
