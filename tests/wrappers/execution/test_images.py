"""A new chunk is held to the old one's turns in its own form of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from robopolicy.core.policy import Prediction
from robopolicy.core.specs import ActionSpace
from robopolicy.paths.linear import LinearFlow
from robopolicy.samplers.registry import make_sampler
from robopolicy.sim.arm import ACTION_SPACE
from robopolicy.testing.teacher_policy import Layout, TeacherPolicy
from robopolicy.testing.teachers import GaussianTeacher
from robopolicy.wrappers.execution import Guide
from robopolicy.wrappers.execution.images import Images
from robopolicy.wrappers.execution.policy import RealTimePolicy
from robopolicy.wrappers.real_time import guided_denoiser

SPACES = {
    "yaw": ActionSpace(2, names=("x", "yaw"), mode="absolute"),
    "quaternion": ActionSpace(4, names=("qx", "qy", "qz", "qw"), mode="absolute"),
    "vector": ActionSpace(3, names=("rx", "ry", "rz"), mode="absolute"),
}
SCALE = 2.5  # physical units of one of the model's
FLOW = LinearFlow(0)


def to_model(x):
    return torch.from_numpy(np.asarray(x, np.float64)) / SCALE


def images(values, space):
    return Images(np.array(values)[None], space, to_model)


def test_yaw_is_the_nearest_turn_of_the_circle_step_by_step():
    held = images([(0.4, 3.1), (0.4, 3.1), (0.4, -3.0)], SPACES["yaw"])
    estimate = to_model([[(0.0, -3.1), (0.0, 2.0), (0.0, 3.0)]])
    aim = held.nearest(estimate)[0] * SCALE
    assert aim[:, 1].tolist() == pytest.approx([3.1 - 2 * math.pi, 3.1, 2 * math.pi - 3.0])
    assert aim[:, 0].tolist() == pytest.approx([0.4] * 3)


def test_quaternions_and_rotation_vectors_are_the_nearer_of_two():
    q = Rotation.from_euler("xyz", (3.0, 0.2, 0.1)).as_quat()
    assert images([q], SPACES["quaternion"]).nearest(to_model([[-q + 0.1]]))[0, 0].numpy() * SCALE == pytest.approx(-q)
    assert images([q], SPACES["quaternion"]).nearest(to_model([[q + 0.1]]))[0, 0].numpy() * SCALE == pytest.approx(q)
    v = np.array((3.0, 0.1, 0.0))
    aim = images([v], SPACES["vector"]).nearest(to_model([[-v]]))[0, 0].numpy() * SCALE
    assert aim @ v < 0
    assert Rotation.from_rotvec(aim).as_matrix() == pytest.approx(Rotation.from_rotvec(v).as_matrix())


def test_the_embedded_arms_cannot_wrap_and_are_held_to_what_was_said_bit_for_bit():
    low, high = ACTION_SPACE.low, ACTION_SPACE.high
    assert high[3] - low[3] < math.pi
    corners = np.array([low, high], np.float32)
    for estimate in (corners, corners[::-1].copy()):
        aim = images(corners, ACTION_SPACE).nearest(to_model(estimate[None]))
        assert torch.equal(aim, to_model(corners[None]))


@pytest.mark.parametrize("jacobian", ["true", "identity"])
def test_the_pull_leads_the_short_way(jacobian):
    """An estimate of -3.1 that is held to 3.1 goes on beyond -pi, and does not come back through 0."""
    held = images([(0.4, 3.1)], SPACES["yaw"])
    at = to_model([[(0.4, -3.1)]])

    def denoise(z, t):
        return Prediction(at + 0.5 * (z - at), z, (1 - t) / t)

    weights = torch.ones(1, 1, 2, dtype=torch.float64)
    led = guided_denoiser(denoise, FLOW, held.nearest, weights, cap=2.0, jacobian=jacobian)
    x0 = led(at, torch.tensor(0.5, dtype=torch.float64)).x0[0, 0] * SCALE
    assert 3.1 - 2 * math.pi <= float(x0[1]) < -3.1
    plain = guided_denoiser(denoise, FLOW, to_model([[(0.4, 3.1)]]), weights, cap=2.0, jacobian=jacobian)
    assert float(plain(at, torch.tensor(0.5, dtype=torch.float64)).x0[0, 0, 1]) * SCALE > -3.1  # as plain numbers


def test_a_policy_continues_a_chunk_across_the_wrap():
    """Data about a yaw of -3.1: what is held at 3.1 is met at 3.1 - 2 pi, and counted as met."""
    teacher = GaussianTeacher(FLOW, -3.1, 0.05)
    layout = Layout(horizon=8, dim=1, n_action_steps=4, space=ActionSpace(1, names=("yaw",), mode="absolute"))
    made = TeacherPolicy(teacher, FLOW.grid(10, "linear"), make_sampler("ddim", clip=None), layout)
    policy = RealTimePolicy(made, cap=10.0)
    weights = np.repeat(np.array((1.0, 0.0), np.float32), 4)
    said = {}
    for yaw in (3.15, 3.15 - 2 * math.pi):
        guide = Guide(np.full((8, 1), yaw, np.float32), weights, 4)
        said[yaw] = policy.act(policy.policy.blank(1), noise_keys=[(1,)], guide=guide)
    near, far = said.values()
    np.testing.assert_allclose(near.actions, far.actions, atol=1e-4)
    assert np.abs(near.actions + math.pi).max() < 0.3
    assert near.info["prefix_error"][0] == pytest.approx(far.info["prefix_error"][0], abs=1e-4)
    assert near.info["prefix_error"][0] < 0.2
