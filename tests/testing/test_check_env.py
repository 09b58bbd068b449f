"""``check_env`` accepts our environments and catches each broken promise."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import CAMERA_POSE, DEPTH, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.sim.protocol import StepResult
from robopolicy.sim.registry import EnvConfig
from robopolicy.testing.check_env import RULES, EnvContractViolation, check_env
from robopolicy.testing.envs import TOP, PointReach

DRAWN = {"depth": True, "image_size": [48, 64]}


@pytest.mark.parametrize(
    "config",
    [
        EnvConfig("pusht"),
        *(
            pytest.param(EnvConfig(n, {**DRAWN, "camera_yaw": yaw}), marks=pytest.mark.render)
            for n, yaw in (("panda_lift", 0), ("panda_push", 25), ("panda_stack", 0))
        ),
    ],
    ids=lambda c: c.name,
)
def test_our_environments_pass_every_rule(config):
    assert check_env(config) == list(RULES)


class Wrong(PointReach):
    """A tiny environment with one fault, chosen by name."""

    instances = 0

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        Wrong.instances += 1
        self.instance, self.count = Wrong.instances, 0
        super().__init__(image=True)
        more = {
            "no calibration": FeatureSpec(DEPTH + "top", (1, 8, 8), FeatureKind.DEPTH),
            "bent pose": FeatureSpec(CAMERA_POSE + "top", (4, 4), FeatureKind.POSE),
        }
        if fault in more:
            self.observation_spec = ObservationSpec((*self.observation_spec.features, more[fault]))

    def reset(self, seed: int) -> None:
        super().reset(0 if self.fault == "one start" else seed)
        if self.fault == "history":
            self.count += 1
            self.position = self.position * 0.99**self.count
        if self.fault == "instance":
            self.position = self.position * 0.99**self.instance

    def observe(self, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
        if self.fault == "any key" and keys is not None:
            keys = [k for k in keys if k in self.observation_spec]
        if self.fault == "bent pose" and keys == [CAMERA_POSE + "top"]:
            return {keys[0]: np.ones((4, 4), np.float32)}
        obs = super().observe(keys)
        if self.fault == "float64":
            return {k: v.astype(np.float64) for k, v in obs.items()}
        if self.fault == "moves" and TOP in obs:
            self.position = self.position + 1e-3
        if self.fault == "shape" and TOP in obs:
            obs[TOP] = obs[TOP].transpose(1, 2, 0)
        return obs

    def step(self, action: np.ndarray) -> StepResult:
        if self.fault == "nan action":
            action = np.nan_to_num(np.ravel(action)[:2], posinf=0.0, neginf=0.0)
            action = np.pad(action, (0, 2 - len(action)))
        r = super().step(action)
        if self.fault == "endless":
            return StepResult(r.reward, False, False, False, r.info)
        if self.fault == "no score":
            return StepResult(r.reward, r.terminated, r.truncated, r.success, {})
        return r


@pytest.mark.parametrize(
    ("fault", "rule", "words"),
    [
        ("float64", "observations", "expected float32"),
        ("shape", "observations", "expected shape"),
        ("no calibration", "cameras", "without FeatureSpec.camera"),
        ("bent pose", "cameras", "no rigid"),
        ("any key", "unknown_key", "was not refused"),
        ("endless", "steps", "without an end"),
        ("no score", "steps", "max_reward"),
        ("nan action", "bad_actions", "was not refused"),
        ("history", "determinism", "depend on what ran before"),
        ("one start", "determinism", "different starts"),
        ("instance", "fresh_instance", "two instances"),
        ("moves", "lazy_rendering", "changed the episode"),
    ],
)
def test_broken_promises_are_named(monkeypatch, fault, rule, words):
    monkeypatch.setattr(EnvConfig, "make", lambda self: Wrong(**self.kwargs))
    with pytest.raises(EnvContractViolation, match=f"{rule}: .*{words}"):
        check_env(EnvConfig("wrong", {"fault": fault}), [rule])


def test_unknown_rule():
    with pytest.raises(ConfigError, match=r"no rule 'step'.*did you mean 'steps'"):
        check_env("pusht", ["step"])
