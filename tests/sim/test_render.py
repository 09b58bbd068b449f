"""Pictures, metric depth and camera calibration agree with the simulated world."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES
from robopolicy.sim.render import unproject
from robopolicy.sim.tasks.lift import HALF, PandaLift

pytestmark = pytest.mark.render
SIZE = (120, 160)


@pytest.fixture(scope="module")
def env():
    env = PandaLift(image_size=SIZE, depth=True)
    yield env
    env.close()


def red(picture: np.ndarray) -> np.ndarray:
    """Mask of the cube in a channel-first picture."""
    r, g, b = picture.astype(int)
    return (r > 90) & (r > 2.2 * g) & (r > 2.2 * b)


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_depth_of_the_cube_lands_on_its_true_pose(env, camera):
    for seed in (0, 1, 2, 3):
        env.reset(seed)
        obs = env.observe([IMAGES + camera, DEPTH + camera])
        mask = red(obs[IMAGES + camera])
        if mask.sum() < 12:
            continue  # the wrist camera need not see the cube from every start
        spec = env.observation_spec[DEPTH + camera].camera
        if camera == "wrist":  # it moves: its pose is observed
            spec = replace(spec, extrinsics=tuple(env.observe([CAMERA_POSE + camera])[CAMERA_POSE + camera].ravel()))
        points = unproject(obs[DEPTH + camera][0], spec)[mask]
        cube = env.data.body("cube")
        local = np.abs((points - cube.xpos) @ cube.xmat.reshape(3, 3))
        outside = np.maximum(local - HALF, 0).max(axis=1)
        assert np.median(np.abs(local.max(axis=1) - HALF)) < 1e-3  # on its surface
        assert np.quantile(outside, 0.9) < 5e-3
        return
    pytest.fail("the cube was in no picture")


def test_depth_of_the_table_is_the_table(env):
    env.reset(0)
    points = unproject(env.observe([DEPTH + "front"])[DEPTH + "front"][0], env.observation_spec[DEPTH + "front"].camera)
    near = points[(np.abs(points[..., 0] - 0.6) < 0.05) & (np.abs(points[..., 1]) > 0.3) & (points[..., 2] > -0.1)]
    assert len(near) > 50
    assert np.abs(near[:, 2]).max() < 2e-3


def test_cube_is_drawn_where_the_calibration_projects_it(env):
    env.reset(5)
    mask = red(env.observe([IMAGES + "front"])[IMAGES + "front"])
    camera = env.observation_spec[IMAGES + "front"].camera
    k, pose = np.reshape(camera.intrinsics, (3, 3)), np.reshape(camera.extrinsics, (4, 4))
    u, v, w = k @ (np.linalg.inv(pose)[:3] @ np.append(env.data.body("cube").xpos, 1.0))
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() + 0.5 - u / w) < 2.0
    assert abs(rows.mean() + 0.5 - v / w) < 2.0


def test_only_what_is_asked_for_is_drawn(env, monkeypatch):
    drawn = []
    colour, depth = env.cameras.colour, env.cameras.depth
    monkeypatch.setattr(env.cameras, "colour", lambda *a, **k: (drawn.append(("colour", a[0])), colour(*a, **k))[1])
    monkeypatch.setattr(env.cameras, "depth", lambda *a, **k: (drawn.append(("depth", a[0])), depth(*a, **k))[1])
    env.observe(["observation.state", "observation.environment_state"])
    env.step(np.array((*env.arm.setpoint, 1.0)))
    assert drawn == []
    env.observe([IMAGES + "wrist"])
    assert drawn == [("colour", "wrist")]


def test_states_need_no_gl_context():
    code = (
        "import sys\nimport numpy as np\n"
        "from robopolicy.sim.registry import make_env\n"
        "env = make_env('panda_lift', depth=True)\n"
        "env.reset(1); env.step(np.array((.5, 0, .2, 0, 1)))\n"
        "env.observe(['observation.state', 'observation.environment_state'])\n"
        "assert env.cameras._gl is None\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_process_ends_quietly_with_an_open_context():
    code = "from robopolicy.sim.registry import make_env\nenv = make_env('panda_lift'); env.reset(0); env.observe()\n"
    run = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert run.stderr == ""


def test_too_large_a_picture_is_refused(env):
    with pytest.raises(ConfigError, match="above the largest"):
        env.render(size=(5000, 5000))
