"""Rotations in all their forms, and physical actions as normalised poses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import FeatureStats
from robopolicy.policies.pose_layout import WIDTHS, PoseLayout
from robopolicy.policies.poses import (
    PoseCodec,
    matrix_of_6d,
    matrix_of_quaternion,
    matrix_of_yaw,
    matrix_to_6d,
    matrix_to_quaternion,
    matrix_to_yaw,
)

LOW, HIGH = torch.tensor([-1.0, 0.0, 0.2]), torch.tensor([1.0, 0.5, 0.6])


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_quaternions(n: int = 50) -> torch.Tensor:
    q = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[:, :1] < 0, -q, q)


def test_six_numbers_become_a_rotation():
    matrix = matrix_of_6d(f64(1, 2, 3, -1, 0.5, 2))
    columns = [
        (0.267261, 0.534522, 0.801784),
        (-0.872872, -0.218218, 0.436436),
        (0.408248, -0.816497, 0.408248),
    ]
    for i, column in enumerate(columns):
        torch.testing.assert_close(matrix[:, i], f64(*column), atol=1e-6, rtol=0)
    assert float(torch.linalg.det(matrix)) == pytest.approx(1.0, abs=1e-12)
    want = f64(0.603592, 0.518949, -0.162997, 0.582925)
    torch.testing.assert_close(matrix_to_quaternion(matrix), want, atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix_of_6d(7 * f64(1, 2, 3, -1, 0.5, 2)), matrix)


def test_a_quaternion_becomes_a_matrix():
    matrix = matrix_of_quaternion(f64(0.5, 0.5, -0.5, 0.5))
    torch.testing.assert_close(matrix, torch.tensor([[0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=torch.float64))
    torch.testing.assert_close(matrix_to_6d(matrix), f64(0, 0, 1, -1, 0, 0))


def test_quaternions_come_back_in_either_order():
    q = random_quaternions()
    for order, given in (("wxyz", q), ("xyzw", q.roll(-1, dims=-1))):
        matrix = matrix_of_quaternion(given, order)
        torch.testing.assert_close(matrix, matrix_of_quaternion(q))
        torch.testing.assert_close(matrix_to_quaternion(matrix, order), given)
        torch.testing.assert_close(matrix_of_6d(matrix_to_6d(matrix)), matrix)
    assert float((matrix_of_quaternion(q, "xyzw") - matrix_of_quaternion(q)).abs().max()) > 0.5
    torch.testing.assert_close(matrix_of_quaternion(-3 * q), matrix_of_quaternion(q))


@pytest.mark.parametrize("axis", range(4))
def test_half_turns_lose_no_digits(axis):
    q = torch.nn.functional.one_hot(torch.tensor(axis), 4).double()
    torch.testing.assert_close(matrix_to_quaternion(matrix_of_quaternion(q)), q)


def test_yaw_of_a_tool_that_points_down():
    yaw = torch.linspace(-3.1, 3.1, 21, dtype=torch.float64)
    matrix = matrix_of_yaw(yaw)
    torch.testing.assert_close(matrix_to_yaw(matrix), yaw)
    torch.testing.assert_close(matrix[:, :, 2], f64(0, 0, -1).expand(21, 3))
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(21, dtype=torch.float64))
    # Both columns count: an error of one of them counts half.
    tilted = matrix_of_yaw(f64(0.0))[0].clone()
    tilted[:2, 0] = f64(math.cos(0.2), math.sin(0.2))
    assert float(matrix_to_yaw(tilted)) == pytest.approx(0.1, abs=1e-12)


def test_conversions_are_differentiable():
    six = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    way = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for convert in (matrix_to_yaw, matrix_to_quaternion):
        (gradient,) = torch.autograd.grad(convert(matrix_of_6d(six)).sum(), six)
        with torch.no_grad():
            ahead, back = (convert(matrix_of_6d(six + step * way)).sum() for step in (1e-6, -1e-6))
        assert float((gradient * way).sum()) == pytest.approx(float(ahead - back) / 2e-6, rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- codec


def codec(rotation: str, gripper: bool = True, low: torch.Tensor = LOW, high: torch.Tensor = HIGH) -> PoseCodec:
    """Gripper first, then rotation, then z, y, x: nothing is where the default has it."""
    width, start = WIDTHS[rotation], int(gripper)
    dim = start + width + 3
    layout = PoseLayout(
        position=(dim - 1, dim - 2, dim - 3),
        rotation=rotation,
        rotation_channels=tuple(range(start, start + width)),
        gripper=0 if gripper else None,
    )
    first = (0.02, 0.08) if gripper else (-1.0, 1.0)
    least, most = (first[0], *(-1.0,) * (dim - 1)), (first[1], *(1.0,) * (dim - 1))
    return PoseCodec(layout, FeatureStats(least, most, least, most, 10), low, high).double()


def actions(kind: str, gripper: bool = True) -> torch.Tensor:
    q = random_quaternions(6)
    turn = {
        "none": q[:, :0],
        "yaw": q[:, :1],
        "quat_wxyz": q,
        "quat_xyzw": q.roll(-1, dims=-1),
        "rot6d": matrix_to_6d(matrix_of_quaternion(q)),
    }[kind]
    opening = torch.tensor([[0.02], [0.08]], dtype=torch.float64).repeat(3, 1)
    zyx = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return torch.cat(((opening,) if gripper else ()) + (turn, zyx), -1)


@pytest.mark.parametrize("gripper", [True, False])
@pytest.mark.parametrize("kind", WIDTHS)
def test_actions_survive_the_way_to_poses_and_back(kind, gripper):
    one, action = codec(kind, gripper), actions(kind, gripper)
    for origin in (None, f64(0.3, -0.1, 0.2)):
        pose, opening = one.encode(action, origin)
        assert pose.shape == (6, 9)
        assert not gripper or opening.tolist() == pytest.approx([0, 1] * 3, abs=1e-6)
        torch.testing.assert_close(one.decode(pose, opening if gripper else None, origin), action, atol=1e-6, rtol=0)


def test_workspaces_may_be_longer_one_way():
    one = codec("none")
    corners = torch.stack((LOW, HIGH, (LOW + HIGH) / 2)).double()
    want = f64(-1, 1, 0)[:, None].expand(3, 3)
    torch.testing.assert_close(one.place(corners), want, atol=1e-6, rtol=0)
    outside = HIGH.double() + 1
    assert bool((one.place(outside) > 1).all())  # nothing is clipped
    torch.testing.assert_close(one.metres(one.place(outside)), outside, atol=1e-6, rtol=0)


def test_quaternion_orders_agree_on_the_same_pose_and_differ_on_the_same_numbers():
    wxyz, xyzw = codec("quat_wxyz"), codec("quat_xyzw")
    same = wxyz.encode(actions("quat_wxyz"))[0] - xyzw.encode(actions("quat_xyzw"))[0]
    other = wxyz.encode(actions("quat_wxyz"))[0] - xyzw.encode(actions("quat_wxyz"))[0]
    assert float(same.abs().max()) < 1e-12
    assert float(other.abs().max()) > 0.1


def test_layouts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="rotation quat_wxyz has 4 channels"):
        PoseLayout(rotation="quat_wxyz")
    with pytest.raises(ConfigError, match="must be different"):
        PoseLayout(position=(0, 1, 1))
    stats = FeatureStats((0.0,) * 6, (1.0,) * 6, (0.0,) * 6, (1.0,) * 6, 10)
    with pytest.raises(ConfigError, match="6 channels"):
        PoseCodec(PoseLayout(), stats, LOW, HIGH)
    with pytest.raises(ConfigError, match="lowest corner"):
        codec("yaw", low=HIGH, high=LOW)


def test_a_gripper_that_never_moves_is_shut():
    stats = FeatureStats((0.0,) * 5, (1.0,) * 4 + (0.0,), (0.0,) * 5, (1.0,) * 5, 10)
    one = PoseCodec(PoseLayout(), stats, LOW, HIGH)
    pose, opening = one.encode(torch.zeros(2, 5))
    assert opening.tolist() == [0, 0]
    assert np.allclose(one.decode(pose, torch.ones(2))[:, 4], 0)
