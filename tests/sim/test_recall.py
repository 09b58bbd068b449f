"""panda_recall asks for memory: the cue is gone when the choice falls, and nothing else carries it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ENVIRONMENT_STATE, IMAGES, STATE
from robopolicy.sim.demonstration import demonstrate
from robopolicy.sim.experts import make_expert
from robopolicy.sim.registry import EnvConfig, make_env
from robopolicy.sim.tasks.recall import PandaRecall
from robopolicy.testing.check_env import RULES, check_env

EPISODES = 40


def run(env: PandaRecall, seed: int, choose: Callable[[dict[str, float], dict], int]) -> bool:
    """An episode from the observation alone: ``choose(read, memory)`` names the pad once the ring is green."""
    env.reset(seed)
    memory: dict = {}
    while True:
        obs = env.observe([STATE, ENVIRONMENT_STATE])
        read = dict(zip(env.environment_names, obs[ENVIRONMENT_STATE], strict=True))
        pad = choose(read, memory)
        aim = f"pad{pad}" if read["go"] else "middle"
        way = np.array((read[f"to_{aim}_x"], read[f"to_{aim}_y"], read[f"to_{aim}_z"] + 0.03))
        step = way * min(1.0, 0.03 / max(float(np.linalg.norm(way)), 1e-9))
        result = env.step(np.array((*(obs[STATE][:3] + step), 0.0, 0.0)))
        if result.done:
            return result.success


def lit(read: dict[str, float]) -> list[int]:
    return [int(name.removeprefix("cue_")) for name, value in read.items() if name.startswith("cue_") and value > 0.5]


def remembering(read: dict[str, float], memory: dict) -> int:
    if lit(read):
        memory["cue"] = lit(read)[0]
    return memory["cue"]


def memoryless(read: dict[str, float], memory: dict) -> int:
    """Uses the lamp while it is lit, and otherwise goes on to the pad that is nearest."""
    pads = sum(name.endswith("_x") for name in read) - 1
    distances = [np.hypot(read[f"to_pad{i}_x"], read[f"to_pad{i}_y"]) for i in range(pads)]
    return lit(read)[0] if lit(read) else int(np.argmin(distances))


@pytest.mark.parametrize("choices", [2, 4])
def test_memory_decides_between_certainty_and_chance(choices):
    env = PandaRecall(choices=choices, cameras=())
    assert np.mean([run(env, seed, remembering) for seed in range(EPISODES)]) > 0.97
    blind = np.mean([run(env, seed, memoryless) for seed in range(EPISODES)])
    deviation = np.sqrt((1 / choices) * (1 - 1 / choices) / EPISODES)
    assert abs(blind - 1 / choices) < 3 * deviation


def test_expert_succeeds_and_all_cues_occur():
    env = PandaRecall(cameras=())
    cues, solved = [], []
    for seed in range(60):
        solved.append(demonstrate(env, 700 + seed, 0.5, (STATE,)).success)
        cues.append(env.cue)
    assert np.mean(solved) > 0.97
    assert 18 < sum(cues) < 42


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_nothing_before_green_depends_on_the_cue(noise):
    """Actions, executed ones included, and every observed number but the lamps themselves are bit-equal."""
    traces = []
    for cue in (0, 1):
        env = PandaRecall(cameras=(), cue=cue)
        env.reset(11)
        expert, trace = make_expert(env, 11, noise), []
        while not env.go:
            obs = env.observe()
            clean = expert.act()
            executed = expert.disturb(clean)
            trace.append(np.concatenate((obs[STATE], obs[ENVIRONMENT_STATE][2:], clean, executed)))
            assert obs[ENVIRONMENT_STATE][:2].tolist() == [
                float(len(trace) <= env.cue_steps and cue == i) for i in (0, 1)
            ]
            env.step(executed)
        assert expert.act()[1] != pytest.approx(env.arm.tcp[1], abs=0.005)  # and now it does
        traces.append(np.array(trace))
    np.testing.assert_array_equal(traces[0], traces[1])


@pytest.mark.render
def test_pictures_show_lamp_and_green_and_forget_the_lamp():
    pictures: dict[int, list[np.ndarray]] = {}
    for cue in (0, 1):
        env = PandaRecall(cameras=("front",), cue=cue, delay=(12, 12))
        env.reset(2)
        expert, pictures[cue] = make_expert(env, 2), []
        while not env.go:
            pictures[cue].append(env.observe([IMAGES + "front"])[IMAGES + "front"])
            env.step(expert.act())
        green = env.observe([IMAGES + "front"])[IMAGES + "front"].astype(int)
        assert ((green[1] > 200) & (green[0] < 120)).sum() > 20
        env.close()
    yellow = []
    for step, (one, two) in enumerate(zip(pictures[0], pictures[1], strict=True)):
        if step < 10:
            r, g, b = one.astype(int)
            yellow.append(((r > 200) & (g > 160) & (b < 90)).sum())
            assert not np.array_equal(one, two)
        else:
            np.testing.assert_array_equal(one, two)
    assert min(yellow) > 15


def test_choosing_early_or_wrongly_ends_the_episode():
    env = PandaRecall(cameras=(), cue=0)
    env.reset(0)

    def go_to(place: np.ndarray, steps: int = 60):
        for _ in range(steps):
            result = env.step(np.array((place[0], place[1], 0.03, 0.0, 0.0)))
            if result.done or (env.go and np.allclose(place, env.middle)):
                return result
        return result

    early = go_to(env.pads[0])
    assert (early.terminated, early.success) == (True, False)
    for pad, success in ((0, True), (1, False)):
        env.reset(0)
        assert not go_to(env.middle, 100).done
        result = go_to(env.pads[pad])
        assert (result.terminated, result.success) == (True, success)
        assert (result.info["max_reward"] == 1.0) == success


def test_green_waits_for_delay_and_for_the_tool():
    env = PandaRecall(cameras=(), delay=(20, 20))
    env.reset(1)
    for _ in range(60):
        env.step(np.array((*env.middle[:2], 0.2, 0.0, 0.0)))
    assert not env.go  # it hovers
    env.reset(1)
    steps = 0
    while not env.go:
        env.step(np.array((*env.middle[:2], 0.03, 0.0, 0.0)))
        steps += 1
    assert steps == env.cue_steps + 20


def test_options_and_their_mistakes():
    assert len(make_env("panda_recall", cameras=(), choices=3).observation_spec[ENVIRONMENT_STATE].names) == 3 + 4 + 9
    for wrong in ({"choices": 5}, {"delay": (9, 3)}, {"cue": 2}, {"cue_steps": 0}):
        with pytest.raises(ConfigError, match="expected"):
            make_env("panda_recall", cameras=(), **wrong)
    with pytest.raises(ConfigError, match="did you mean 'image_size'"):
        make_env("panda_recall", image_sise=(64, 64))


@pytest.mark.render
def test_every_rule_of_an_environment():
    assert check_env(EnvConfig("panda_recall", {"image_size": [48, 64], "choices": 3})) == list(RULES)
