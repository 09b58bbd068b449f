"""The replay on disk: what goes in comes out, in one order, whatever died when; pictures cost no memory."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, DatasetError, InvalidObservation
from robopolicy.core.specs import GOAL, IMAGES, STATE, FeatureKind, FeatureSpec
from robopolicy.rl.replay import EPISODES, LAYOUT, Replay
from robopolicy.rl.reward_rule import RewardRule
from robopolicy.testing.replays import make_episode, tiny_layout

FRONT = IMAGES + "front"
LAYOUT_WITH_ALL = tiny_layout(cameras={"front": (6, 5)}, latent_shape=(4, 2))
# Lengths that end chunks early, several rounds.
EPISODES_OF = [(7, 0, 0), (9, 1, 0), (4, 2, 0), (3, 0, 1), (11, 1, 1), (1, 2, 1)]


def episodes(layout=LAYOUT_WITH_ALL):
    return [make_episode(layout, steps, index, r, success=index == 1) for steps, index, r in EPISODES_OF]


def filled(root: Path, made=None, layout=LAYOUT_WITH_ALL, rule=None) -> Replay:
    replay = Replay.create(root, layout, rule)
    for episode in episodes(layout) if made is None else made:
        replay.add(episode)
    return replay


def everything(view) -> dict[str, np.ndarray]:
    return view.batch(np.arange(len(view)))


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        assert values.dtype == other[key].dtype
        np.testing.assert_array_equal(values, other[key], err_msg=key)


def test_a_batch_is_what_was_added(tmp_path):
    made = episodes()
    replay = filled(tmp_path, made)
    view = replay.upto(2)
    assert len(replay) == len(view) == sum(len(e) for e in made)
    assert view.env_steps == sum(e.env_steps for e in made)
    batch = everything(view)
    assert batch[FRONT].dtype == batch["next." + FRONT].dtype == np.uint8
    at = 0
    for episode in made:
        here = slice(at, at + len(episode))
        for key in (STATE, FRONT):
            np.testing.assert_array_equal(batch[key][here], episode.observations[key][:-1])
            np.testing.assert_array_equal(batch["next." + key][here], episode.observations[key][1:])
        np.testing.assert_array_equal(batch["action"][here], episode.action)
        np.testing.assert_array_equal(batch["latent"][here], episode.latent)
        ends = (episode.terminated, episode.truncated)
        rewards = np.float32(episode.step_rewards)
        table = RewardRule().transitions(rewards, episode.step_successes, *ends, 0.9, 3)
        for key, values in table.rows(np.arange(len(table))).items():
            np.testing.assert_array_equal(batch[key][here], values, err_msg=key)
        at += len(episode)
    rows = np.array([5, 0, 5])
    assert_equal(view.batch(rows), {key: values[rows] for key, values in batch.items()})


def test_the_view_does_not_depend_on_the_order_of_writing(tmp_path):
    reference = everything(filled(tmp_path / "a").upto(2))
    for seed in range(3):
        shuffled = episodes()
        random.Random(seed).shuffle(shuffled)
        replay = filled(tmp_path / str(seed), shuffled)
        assert [(e.round, e.index) for e in replay.episodes] == [(r, i) for _, i, r in EPISODES_OF]
        assert_equal(everything(replay.upto(2)), reference)
        assert_equal(everything(Replay.open(replay.root, LAYOUT_WITH_ALL).upto(2)), reference)


def test_a_view_is_of_earlier_rounds_and_stays_as_it_is(tmp_path):
    made = episodes()
    replay = filled(tmp_path, made[:3])
    first = replay.upto(1)
    before = everything(first)
    for episode in made[3:]:
        replay.add(episode)
    assert_equal(everything(first), before)
    assert_equal(everything(replay.upto(1)), before)
    assert len(replay.upto(0)) == 0
    assert [e.round for e in replay.upto(2).episodes] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ConfigError, match="no episode yet"):
        replay.upto(0).batch(np.array([0]))


def test_rewards_are_read_by_the_rule_and_not_stored(tmp_path):
    filled(tmp_path)
    rule = RewardRule(rewards="recorded", scale=2.0, bias=1.0)
    batch = everything(Replay.open(tmp_path, LAYOUT_WITH_ALL, rule).upto(1))
    rewards = 2.0 * np.float32(episodes()[0].step_rewards).astype(float) + 1.0
    assert batch["reward"][0] == pytest.approx(rewards[0] + 0.9 * rewards[1] + 0.81 * rewards[2], rel=1e-6)
    assert batch["reward"][2] == pytest.approx(rewards[6], rel=1e-6)
    assert batch["n"][:3].tolist() == [3, 3, 1]


def test_goals_are_one_step(tmp_path):
    goal = FeatureSpec(GOAL + STATE, (3,), FeatureKind.GOAL)
    layout = tiny_layout()
    layout = dataclasses.replace(layout, features=(*layout.features, goal))
    batch = everything(filled(tmp_path, layout=layout).upto(1))
    assert batch[GOAL + STATE].shape[1:] == (1, 3)
    assert batch[STATE].shape[1:] == (2, 3)
    assert "latent" not in batch


def cut_files(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(root.iterdir()) if p.name != LAYOUT}


@pytest.mark.parametrize("seed", range(8))
def test_a_write_that_was_cut_anywhere_never_happened(tmp_path, seed):
    """Every file as long as it was, or any part longer; the line of the list whole only after everything else."""
    made = episodes()
    replay = filled(tmp_path, made[:4])
    before, reference = cut_files(tmp_path), everything(replay.upto(2))
    replay.add(made[4])
    after = cut_files(tmp_path)
    rng = random.Random(seed)
    for path, old in before.items():
        new = after[path]
        path.write_bytes(new[: rng.randint(len(old), len(new) - (path.name == EPISODES))])
    opened = Replay.open(tmp_path, LAYOUT_WITH_ALL)
    assert len(opened.episodes) == 4
    assert_equal(everything(opened.upto(2)), reference)
    opened.add(made[5])  # over what was left
    opened.add(made[4])
    assert_equal(everything(opened.upto(2)), everything(filled(tmp_path / "whole").upto(2)))
    assert_equal(everything(Replay.open(tmp_path, LAYOUT_WITH_ALL).upto(2)), everything(opened.upto(2)))


def test_opening_writes_nothing(tmp_path):
    replay = filled(tmp_path)
    with open(tmp_path / EPISODES, "ab") as f:
        f.write(b'{"index": 3, "rou')
    before = cut_files(tmp_path)
    assert len(Replay.open(tmp_path, LAYOUT_WITH_ALL).upto(2)) == len(replay)
    assert cut_files(tmp_path) == before


def test_damage_is_told_from_an_interrupted_write(tmp_path):
    filled(tmp_path)
    column = tmp_path / "action.bin"
    whole = column.read_bytes()
    column.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match=r"action.bin: \d+ bytes, expected \d+ for \d+ rows"):
        Replay.open(tmp_path, LAYOUT_WITH_ALL)
    column.write_bytes(whole)
    lines = (tmp_path / EPISODES).read_text().splitlines(keepends=True)
    for broken in ([lines[0], "{}\n", *lines[2:]], [lines[0], *lines[2:]]):
        (tmp_path / EPISODES).write_text("".join(broken))
        with pytest.raises(DatasetError, match="line 2"):
            Replay.open(tmp_path, LAYOUT_WITH_ALL)
    (tmp_path / EPISODES).write_text("".join(lines))
    (tmp_path / LAYOUT).write_text("[]")
    with pytest.raises(DatasetError, match=LAYOUT):
        Replay.open(tmp_path, LAYOUT_WITH_ALL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 4}, "k is 3 there and 4 here"),
        ({"gamma": 0.95}, "gamma is 0.9 there and 0.95 here"),
        ({"latent_shape": None}, r"latent_shape is \[4, 2\] there and None here"),
        ({"features": tiny_layout().features}, f"'{FRONT}' is stored there and not wanted here"),
        ({"features": tiny_layout(cameras={"front": (6, 6)}).features}, f"shape of '{FRONT}' is"),
        ({"features": tiny_layout(cameras={"front": (6, 5), "x": (6, 5)}).features}, "x' is wanted here and not"),
    ],
)
def test_another_layout_is_refused_by_field(tmp_path, change, said):
    filled(tmp_path, [])
    with pytest.raises(ConfigError, match=said):
        Replay.open(tmp_path, dataclasses.replace(LAYOUT_WITH_ALL, **change))


def test_places_and_doubles_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no replay here"):
        Replay.open(tmp_path, LAYOUT_WITH_ALL)
    replay = filled(tmp_path)
    with pytest.raises(ConfigError, match="there is a replay already"):
        Replay.create(tmp_path, LAYOUT_WITH_ALL)
    assert (1, 2) in replay
    assert (2, 0) not in replay
    with pytest.raises(ConfigError, match="episode 2 of round 1 is there already"):
        replay.add(episodes()[-1])


def test_episodes_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    replay = filled(tmp_path)
    before = cut_files(tmp_path)
    good = make_episode(LAYOUT_WITH_ALL, 5, 9)
    seen = good.observations
    bad = {
        "expected uint8, got float32": {"observations": {**seen, FRONT: np.float32(seen[FRONT])}},
        "'observation.state' is not finite": {"observations": {**seen, STATE: seen[STATE] * np.nan}},
        "'observation.state' is \\(2, 3\\) in every row": {"observations": {**seen, STATE: seen[STATE][:, :1]}},
        "no 'observation.images.front'": {"observations": {STATE: seen[STATE]}},
        "the explorer gave none": {"latent": None},
        "'action' is": {"action": good.action[..., :1]},
    }
    for said, change in bad.items():
        with pytest.raises((ConfigError, InvalidObservation), match=said):
            replay.add(dataclasses.replace(good, **change))
    assert cut_files(tmp_path) == before


def test_the_list_is_json_a_line_an_episode(tmp_path):
    filled(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / EPISODES).read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 4, 8, 11, 13, 18]
    assert lines[1] == {
        "index": 1, "round": 0, "seed": 1001, "row": 4, "transitions": 3, "steps": 9, "env_steps": 9, "success": True,
        "terminated": True, "truncated": False,
    }  # fmt: skip


def anonymous_kilobytes() -> int:
    """Memory of this process that is not a file's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_pictures_stay_on_disk(tmp_path):
    """58 megabytes of pictures: adding and drawing them takes no memory that stays."""
    layout = tiny_layout(cameras={"front": (96, 96)}, n_obs_steps=1)
    episode = make_episode(layout, 60)
    replay = filled(tmp_path, [episode], layout)
    everything(replay.upto(1))
    before = anonymous_kilobytes()
    for index in range(1, 100):
        replay.add(dataclasses.replace(episode, index=index))
    view = replay.upto(1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        view.batch(rng.integers(0, len(view), 64))
    stored = (tmp_path / f"{FRONT}.bin").stat().st_size
    assert stored == 100 * 21 * 3 * 96 * 96 > 58e6
    assert anonymous_kilobytes() - before < 12_000
