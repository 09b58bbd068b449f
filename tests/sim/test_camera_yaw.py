"""A moved front camera sees the same world; a moving wrist camera says where it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from robopolicy.cli.main import main
from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES, CameraModel, FeatureKind
from robopolicy.sim.arm import HIGH, LOW
from robopolicy.sim.registry import make_env
from robopolicy.sim.render import unproject
from robopolicy.sim.tasks.lift import PandaLift

SIZE = (96, 128)
CENTRE = (LOW[:2] + HIGH[:2]) / 2


def front(camera_yaw: float) -> tuple[np.ndarray, np.ndarray, CameraModel]:
    """World points (N, 3), their colours (N, 3) and the calibration of the front camera."""
    env = PandaLift(cameras=("front",), image_size=SIZE, depth=True, camera_yaw=camera_yaw)
    env.reset(4)
    obs, camera = env.observe([IMAGES + "front", DEPTH + "front"]), env.observation_spec[DEPTH + "front"].camera
    env.close()
    points = unproject(obs[DEPTH + "front"][0], camera)
    return points.reshape(-1, 3), obs[IMAGES + "front"].reshape(3, -1).T.astype(int), camera


@pytest.mark.render
@pytest.mark.parametrize("yaw", [30.0, -20.0])
def test_static_points_agree_between_cameras(yaw):
    """The cube seen by both cameras is one cube, and the table one plane, to the millimetre."""
    seen = [front(0.0), front(yaw)]
    cubes = []
    for points, colour, _ in seen:
        red = points[(colour[:, 0] > 90) & (colour[:, 0] > 2.2 * colour[:, 1]) & (colour[:, 0] > 2.2 * colour[:, 2])]
        assert len(red) > 15
        cubes.append(red[red[:, 2] > 0.0385].mean(axis=0))  # its top face, which both see
        table = points[(np.abs(points[:, 0] - 0.6) < 0.05) & (np.abs(points[:, 1]) > 0.2) & (points[:, 2] > -0.1)]
        assert np.abs(table[:, 2]).max() < 3e-3
    assert abs(cubes[0][2] - cubes[1][2]) < 1e-3
    np.testing.assert_allclose(cubes[0], cubes[1], atol=4e-3)  # centroids of a dozen pixels of 7 mm


@pytest.mark.render
def test_camera_keeps_distance_height_and_aim():
    for yaw in (20.0, 180.0):
        poses = [np.reshape(front(y)[2].extrinsics, (4, 4)) for y in (0.0, yaw)]
        a, b = (p[:2, 3] - CENTRE for p in poses)
        assert np.hypot(*a) == pytest.approx(np.hypot(*b), abs=1e-9)
        assert poses[0][2, 3] == poses[1][2, 3]
        turned = np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b)
        assert abs(turned) == pytest.approx(np.radians(yaw), abs=1e-9)
        aims = [p[:3, :3].T @ (np.array((*CENTRE, 0.0)) - p[:3, 3]) for p in poses]  # the centre in camera coordinates
        np.testing.assert_allclose(aims[0], aims[1], atol=1e-9)


@pytest.mark.render
def test_without_a_yaw_nothing_changes():
    plain, moved = PandaLift(cameras=("front",)), make_env("panda_lift", cameras=("front",), camera_yaw=0.0)
    assert plain.observation_spec == moved.observation_spec
    assert make_env("panda_lift", camera_yaw=5.0).observation_spec != make_env("panda_lift").observation_spec


def test_pose_of_the_wrist_camera_follows_the_hand():
    env = PandaLift(cameras=("wrist",), depth=True)
    key = CAMERA_POSE + "wrist"
    spec = env.observation_spec
    assert (spec[key].kind, spec[key].shape) == (FeatureKind.POSE, (4, 4))
    assert np.array_equal(np.reshape(spec[DEPTH + "wrist"].camera.extrinsics, (4, 4)), np.eye(4))
    assert spec[IMAGES + "wrist"].camera == spec[DEPTH + "wrist"].camera
    assert key not in PandaLift(cameras=("front",), depth=True).observation_spec
    assert PandaLift(cameras=("wrist",)).observation_spec[IMAGES + "wrist"].camera is None
    env.reset(0)
    offsets = []
    for step in range(8):
        pose = env.observe([key])[key]
        hand = np.eye(4)
        hand[:3, :3], hand[:3, 3] = env.data.site("tcp").xmat.reshape(3, 3), env.arm.tcp
        offsets.append(np.linalg.inv(hand) @ pose)
        env.step(np.array((0.5, 0.1, 0.3, 0.1 * step, 1.0)))
    np.testing.assert_allclose(offsets, np.broadcast_to(offsets[0], (8, 4, 4)), atol=1e-6)  # it is mounted on it
    assert offsets[0][:3, 3] == pytest.approx((0.070, 0.0, 0.030 - 0.1034), abs=1e-6)


@pytest.mark.render
def test_moving_camera_maps_the_same_table():
    env = PandaLift(cameras=("wrist",), image_size=SIZE, depth=True)
    env.reset(1)
    camera = env.observation_spec[DEPTH + "wrist"].camera
    for target in ((0.45, -0.1, 0.3, 0.3, 1.0), (0.6, 0.1, 0.25, -0.5, 1.0)):
        for _ in range(20):
            env.step(np.array(target))
        obs = env.observe([DEPTH + "wrist", CAMERA_POSE + "wrist"])
        now = replace(camera, extrinsics=tuple(obs[CAMERA_POSE + "wrist"].ravel().tolist()))
        points = unproject(obs[DEPTH + "wrist"][0], now).reshape(-1, 3)
        beside = np.hypot(*(points[:, :2] - env.data.body("cube").xpos[:2]).T) > 0.05
        table = points[
            beside & (points[:, 2] < 0.01) & (np.abs(points[:, 0] - 0.5) < 0.3) & (np.abs(points[:, 1]) < 0.5)
        ]
        assert len(table) > 1000
        assert np.abs(table[:, 2]).max() < 1e-3
    env.close()


@pytest.mark.render
def test_collect_records_depth_and_poses(tmp_path):
    out = tmp_path / "set"
    line = f"collect panda_lift --episodes 1 --out {out} --workers 0 --cameras wrist --depth --image-size 32 32"
    assert main(line.split()) == 0
    features = json.loads((out / "meta/info.json").read_text())["features"]
    assert features["observation.camera_pose.wrist"]["shape"] == [4, 4]
    assert features["observation.depth.wrist"]["shape"] == [1, 32, 32]
    rows = pq.read_table(sorted((out / "data").rglob("*.parquet")))
    poses = np.array(rows["observation.camera_pose.wrist"].to_pylist(), np.float32)
    assert poses.shape == (len(rows), 4, 4)
    env = PandaLift(depth=True, cameras=("wrist",))
    env.reset(0)
    np.testing.assert_array_equal(poses[0], env.observe([CAMERA_POSE + "wrist"])[CAMERA_POSE + "wrist"])


def test_collect_sets_options_of_the_environment(tmp_path, capsys):
    line = f"collect panda_recall --episodes 1 --out {tmp_path / 'set'} --workers 0 --cameras --env.choices 3"
    assert main(line.split()) == 0
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    assert features["observation.environment_state"]["shape"] == [3 + 4 + 9]
    assert main(f"collect panda_lift --out {tmp_path} --env.camera_yow 3".split()) == 2
    assert "did you mean 'camera_yaw'" in capsys.readouterr().err
