"""Point clouds: places agree with the simulator's, far points are chosen, what is not there does not count."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import DEPTH, IMAGES, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.encoders.cameras import CameraRig, pose_key, recalibrated
from robopolicy.encoders.config import PointCloudConfig
from robopolicy.encoders.depth import DepthEncoder
from robopolicy.encoders.point_cloud import PointCloudEncoder, farthest_point_indices, resize_xyz, unproject
from robopolicy.sim import render
from robopolicy.testing.tiny import random_poses, tiny_camera, tiny_spec

FRONT = DEPTH + "front"
SMALL = PointCloudConfig(n_points=12, stride=1, channels=(8, 16), feature_dim=6)


def matrices(camera) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(camera.intrinsics).reshape(3, 3), torch.tensor(camera.extrinsics).reshape(4, 4)


def test_points_agree_with_the_simulators():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.2, 3.0, (4, 11, 17)).astype(np.float32)
    poses = random_poses(rng, (4,))
    camera = tiny_camera((11, 17))
    ours = unproject(torch.from_numpy(depth)[:, None], matrices(camera)[0], torch.from_numpy(poses))
    for i in range(4):
        theirs = render.unproject(depth[i], dataclasses.replace(camera, extrinsics=tuple(poses[i].ravel().tolist())))
        np.testing.assert_allclose(ours[i].permute(1, 2, 0).numpy(), theirs, atol=1e-5)


def test_places_keep_their_precision_under_autocast():
    depth = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.5
    exact = unproject(depth, *matrices(tiny_camera((5, 7))))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unproject(depth, *matrices(tiny_camera((5, 7)))), exact)


@pytest.mark.render
def test_points_of_a_mujoco_picture_agree_with_the_simulators():
    from robopolicy.sim.tasks.lift import PandaLift

    env = PandaLift(cameras=("front", "wrist"), image_size=(24, 32), depth=True)
    try:
        env.reset(3)
        keys = [FRONT, DEPTH + "wrist", pose_key(DEPTH + "wrist")]
        seen = {k: torch.from_numpy(v)[None] for k, v in env.observe(keys).items()}
        rig = CameraRig(env.observation_spec, max_depth=100.0)
        for name in ("front", "wrist"):
            now = env.cameras.calibration(name, (24, 32))
            theirs = render.unproject(seen[DEPTH + name][0, 0].numpy(), now)
            ours = rig.xyz(DEPTH + name, seen)[0].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    finally:
        env.close()


def test_centre_pixel_lies_on_the_optical_axis():
    camera = tiny_camera((9, 9), position=(0.3, -0.2, 1.0))
    xyz = unproject(torch.full((1, 1, 9, 9), 0.75), *matrices(camera))
    torch.testing.assert_close(xyz[0, :, 4, 4], torch.tensor([0.3, -0.2, 0.25]))


def test_farthest_points_of_the_paper_example():
    points = torch.tensor([[[0.0, 0], [1, 0], [0, 2], [3, 3], [1, 1]]], requires_grad=True)
    assert farthest_point_indices(points, 3).tolist() == [[0, 3, 2]]
    assert not farthest_point_indices(points, 3).requires_grad
    valid = torch.tensor([[False, True, True, False, True]])
    chosen = farthest_point_indices(points, 5, valid)[0].tolist()
    assert chosen[:3] == [1, 2, 4]
    assert set(chosen) == {1, 2, 4}


def test_each_farthest_point_is_the_farthest():
    x = torch.rand(3, 40, 3, generator=torch.Generator().manual_seed(0))
    chosen = farthest_point_indices(x, 10)
    for b in range(3):
        for i in range(1, 10):
            reach = torch.cdist(x[b], x[b, chosen[b, :i]]).amin(1)
            assert reach[chosen[b, i]] == pytest.approx(float(reach.max()), abs=1e-6)


def test_resizing_keeps_points_except_bilinear():
    """A near object before a far wall: only bilinear makes points between them."""
    xyz = torch.zeros(1, 3, 8, 8)
    xyz[:, 2] = 2.0
    xyz[:, 2, :, :3] = 1.0
    for mode, invented in (("nearest", False), ("median", False), ("bilinear", True)):
        z = resize_xyz(xyz, (4, 4), mode)[0, 2]
        assert bool(((z > 1.0) & (z < 2.0)).any()) is invented, mode


def test_median_takes_a_point_of_the_cell_and_leaves_out_what_is_missing():
    xyz = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(1))
    xyz[:, :, 0, 0] = torch.nan
    small = resize_xyz(xyz, (2, 3), "median")
    assert bool(small.isfinite().all())
    cell = xyz[0, :, :3, :3].flatten(1).T
    assert (cell == small[0, :, 0, 0]).all(1).any()
    xyz[:, :, :3, :3] = torch.nan
    assert bool(resize_xyz(xyz, (2, 3), "median")[:, :, 0, 0].isnan().all())
    assert bool(resize_xyz(xyz, (2, 3), "nearest")[:, :, 1, 1].isfinite().all())


def cloud(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_encoding_does_not_depend_on_the_order_of_points():
    torch.manual_seed(0)
    encoder = PointCloudEncoder(dataclasses.replace(SMALL, n_points=48)).eval()
    xyz = cloud()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    shuffled = xyz.flatten(2)[:, :, order].unflatten(2, (6, 8))
    torch.testing.assert_close(encoder(xyz), encoder(shuffled))
    assert torch.equal(encoder(xyz), encoder(xyz))


def test_points_outside_the_workspace_change_nothing():
    torch.manual_seed(0)
    bounds = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    encoder = PointCloudEncoder(dataclasses.replace(SMALL, bounds=bounds, n_points=20)).eval()
    xyz = cloud()
    xyz[:, :, 2:4] = 5.0
    other = xyz.clone()
    other[:, :, 2:4] = -7.0
    other[:, :, 3] = torch.nan
    torch.testing.assert_close(encoder(xyz), encoder(other))
    points, valid, _ = encoder.select(xyz)
    assert bool(valid.all())
    assert float(points.abs().max()) <= 1.0


def test_a_picture_without_any_return_gives_numbers_and_gradients():
    encoder = PointCloudEncoder(SMALL)
    xyz = cloud()
    xyz[0] = torch.nan
    out = encoder(xyz)
    out.sum().backward()
    assert bool(out.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters())


def test_parameters_of_dp3s_encoder():
    encoder = PointCloudEncoder(PointCloudConfig())
    widths = (3, 64, 128, 256)
    mlp = sum(a * b + 3 * b for a, b in pairwise(widths))
    assert sum(p.numel() for p in encoder.parameters()) == mlp + 256 * 64 + 3 * 64 == 59_072


def test_colour_is_read_and_may_have_another_size():
    torch.manual_seed(0)
    spec = tiny_spec(0, {"front": (12, 16)}, {"front": (6, 8)})
    encoder = DepthEncoder(spec, dataclasses.replace(SMALL, use_color=True)).eval()
    depth = torch.full((1, 2, 1, 6, 8), 0.5)
    dark = {FRONT: depth, IMAGES + "front": torch.zeros(1, 2, 3, 12, 16, dtype=torch.uint8)}
    bright = {**dark, IMAGES + "front": torch.full((1, 2, 3, 12, 16), 255, dtype=torch.uint8)}
    floating = {**dark, IMAGES + "front": torch.ones(1, 2, 3, 12, 16)}
    assert not torch.allclose(encoder(dark)[0], encoder(bright)[0])
    torch.testing.assert_close(encoder(floating)[0], encoder(bright)[0])
    with pytest.raises(ConfigError, match=r"observation\.images\.front"):
        DepthEncoder(tiny_spec(0, None, {"front": (6, 8)}), dataclasses.replace(SMALL, use_color=True))


def test_the_same_world_from_a_moved_camera_gives_the_same_points():
    """A flat floor seen from two heights: once calibrated, both pictures say the floor is at 0."""
    low, high = tiny_camera((6, 6), (0, 0, 1.0)), tiny_camera((6, 6), (0.1, 0, 1.5))
    spec = ObservationSpec((FeatureSpec(FRONT, (1, 6, 6), FeatureKind.DEPTH, camera=low),))
    moved = ObservationSpec((FeatureSpec(FRONT, (1, 6, 6), FeatureKind.DEPTH, camera=high),))
    rig = CameraRig(spec, max_depth=10.0)
    from_high = {FRONT: torch.full((1, 1, 6, 6), 1.5)}
    assert float(rig.xyz(FRONT, from_high)[:, 2].max()) == pytest.approx(-0.5)
    rig.set_cameras(recalibrated(spec, moved))
    torch.testing.assert_close(rig.xyz(FRONT, from_high)[:, 2], torch.zeros(1, 6, 6))


def test_no_return_and_far_pixels_have_no_place():
    rig = CameraRig(tiny_spec(0, None, {"front": (2, 2)}), max_depth=2.0)
    xyz = rig.xyz(FRONT, {FRONT: torch.tensor([[[[0.0, 1.0], [2.5, 2.0]]]])})
    assert xyz.isfinite().all(1)[0].tolist() == [[False, True], [False, True]]


def test_depth_without_calibration_is_refused_by_key():
    bare = ObservationSpec((FeatureSpec(FRONT, (1, 6, 6), FeatureKind.DEPTH),))
    with pytest.raises(ConfigError, match=r"observation\.depth\.front: no calibration"):
        CameraRig(bare, 10.0)
    with pytest.raises(ConfigError, match=r"observation\.depth\.front"):
        recalibrated(tiny_spec(1, None, {"front": (6, 6)}), tiny_spec(1))
    assert recalibrated(tiny_spec(2), tiny_spec(1)) == tiny_spec(2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"n_points": 0}, "n_points"), ({"max_depth": 0.0}, "max_depth"), ({"bounds": ((0, 0, 0), (1, 0, 1))}, "bounds")],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        PointCloudConfig(**changes)
