"""Depth policies where the cameras stand elsewhere: calibrated for the run, refused without calibration."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robopolicy.core.errors import InvalidObservation
from robopolicy.core.specs import ACTION, CAMERA_POSE, DEPTH, STATE, ObservationSpec
from robopolicy.evaluation.checks import calibrated, check_fits
from robopolicy.evaluation.rollout import evaluate
from robopolicy.policies.registry import make_policy
from robopolicy.sim.pool import Description
from robopolicy.testing.policies import StillPolicy
from robopolicy.testing.tiny import tiny_camera, tiny_config, tiny_policy, tiny_spec, unit_stats

FRONT = DEPTH + "front"
SPEC = tiny_spec(3, None, {"front": (8, 8)})


def place(spec: ObservationSpec, policy) -> Description:
    return Description(spec, policy.action_spec.space, policy.fps, 10, "task")


def moved(camera) -> ObservationSpec:
    features = (dataclasses.replace(f, camera=camera) if f.key == FRONT else f for f in SPEC.features)
    return ObservationSpec(tuple(features))


def test_calibration_lasts_as_long_as_the_run():
    policy = tiny_policy(observation_spec=SPEC)
    elsewhere = moved(tiny_camera((8, 8), (0.5, 0.0, 2.0)))
    obs = {FRONT: torch.ones(1, 1, 8, 8)}
    rig = policy.encoder.depth.rig
    before = rig.xyz(FRONT, obs)
    with calibrated(policy, elsewhere):
        assert policy.observation_spec == elsewhere
        torch.testing.assert_close(rig.xyz(FRONT, obs)[:, 2], torch.ones(1, 8, 8))
    assert policy.observation_spec == SPEC
    assert torch.equal(rig.xyz(FRONT, obs), before)


def test_policies_that_cannot_be_calibrated_run_as_they_are():
    policy = StillPolicy.for_point_reach()
    with calibrated(policy, SPEC):
        pass


def test_an_environment_without_calibration_is_refused():
    policy = tiny_policy(observation_spec=SPEC)
    check_fits(policy, place(SPEC, policy), "somewhere")
    with pytest.raises(InvalidObservation, match=r"observation\.depth\.front.*no calibration") as caught:
        check_fits(policy, place(moved(None), policy), "somewhere")
    assert "\n" not in str(caught.value)


def test_a_camera_that_began_to_move_is_refused():
    policy = tiny_policy(observation_spec=SPEC)
    moving = tiny_spec(3, None, {"front": (8, 8)}, moving=["front"])
    with pytest.raises(InvalidObservation, match=CAMERA_POSE.replace(".", r"\.") + "front"):
        check_fits(policy, place(moving, policy), "somewhere")


@pytest.mark.render
def test_a_simulated_camera_carried_round_the_table():
    """The policy knows the camera at its old place; the run takes the new one and gives the old one back."""
    options = {"cameras": ["front"], "image_size": [8, 8], "depth": True, "max_steps": 5}
    from robopolicy.sim.tasks.lift import PandaLift

    env = PandaLift(**options)
    spec, space, fps = env.observation_spec.select([STATE, FRONT]), env.action_space, env.fps
    env.close()
    config = tiny_config(observation_keys=(STATE, FRONT), horizon=8, n_action_steps=4)
    policy = make_policy(config, spec, space, fps, {STATE: unit_stats(5), ACTION: unit_stats(5)}).eval()
    seen = []
    original = policy.calibrate
    policy.calibrate = lambda s: (original(s), seen.append(policy.observation_spec[FRONT].camera))[0]
    record = evaluate(
        policy, {"name": "panda_lift", "kwargs": {**options, "camera_yaw": 30.0}}, 1, workers=0, progress=False
    )
    assert record.errors == 0
    assert len(seen) == 2
    assert seen[0].intrinsics == spec[FRONT].camera.intrinsics
    assert seen[0].extrinsics != spec[FRONT].camera.extrinsics
    assert seen[1] == spec[FRONT].camera
