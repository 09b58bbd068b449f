"""OGBench's .npz files become LeRobot datasets, by the shipped recipe or by plain rules."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.datasets.convert import convert, guess_format
from robopolicy.datasets.convert_recipe import load_recipe
from robopolicy.datasets.reader import Reader

ENDS = [6, 11, 20]


def buffer(state=37, action=5):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(20, state)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(20, action)).astype(np.float32),
        "terminals": np.isin(np.arange(20), np.array(ENDS) - 1),
    }


def saved(path, arrays):
    np.savez(path, **arrays)
    return path


def test_the_shipped_recipe_is_found_by_the_shapes(tmp_path):
    arrays = buffer()
    src = saved(tmp_path / "cube.npz", arrays)
    assert guess_format(src) == "npz"
    result = convert(src, tmp_path / "out")
    assert (result.episodes, result.frames) == (3, 20)
    reader = Reader(tmp_path / "out")
    assert reader.fps == 20
    assert [e.length for e in reader.episodes] == [6, 5, 9]
    np.testing.assert_array_equal(reader.columns["observation.state"], arrays["observations"])
    np.testing.assert_array_equal(reader.columns["action"], arrays["actions"])
    assert np.flatnonzero(reader.columns["next.done"]).tolist() == [5, 10, 19]
    assert reader.task_of(0) == "Move the cubes."
    names = reader.observation_spec()["observation.state"].names
    assert (names[12], names[17], names[19], names[28]) == ("effector_x", "gripper_opening", "cube1_x", "cube2_x")
    assert reader.action_space().high == (1.0,) * 5


def test_episode_ends_go_before_terminals(tmp_path):
    arrays = {**buffer(), "episode_ends": np.array([10, 20])}
    assert convert(saved(tmp_path / "a.npz", arrays), tmp_path / "out").episodes == 2


def test_other_shapes_need_a_recipe(tmp_path):
    src = saved(tmp_path / "scene.npz", buffer(40))
    with pytest.raises(ConfigError, match=r"no array 'action' among.*--recipe"):
        convert(src, tmp_path / "out")
    recipe = tmp_path / "scene.yaml"
    recipe.write_text("fps: 20\nfeatures: {observation.state: {from: observations}}\naction: {from: actions}\n")
    assert convert(src, tmp_path / "out", recipe=str(recipe)).frames == 20


def test_damage_is_named(tmp_path):
    torn = tmp_path / "torn.npz"
    torn.write_bytes(saved(tmp_path / "whole.npz", buffer()).read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"torn\.npz: not a readable \.npz"):
        convert(torn, tmp_path / "out")
    endless = {k: v for k, v in buffer().items() if k != "terminals"}
    with pytest.raises(DatasetError, match="where episodes end is unknown"):
        convert(saved(tmp_path / "endless.npz", endless), tmp_path / "out")
    cut = {**buffer(), "terminals": np.isin(np.arange(20), [5, 10])}
    with pytest.raises(DatasetError, match="episode_ends stop at 11"):
        convert(saved(tmp_path / "cut.npz", cut), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recipe_names_every_channel_once():
    recipe = load_recipe("ogbench_cube_double_npz")
    names = recipe.features["observation.state"].names
    assert len(set(names)) == len(names) == 37


@pytest.mark.shared_data
def test_two_cube_play_by_the_documented_command(shared_data, tmp_path, capsys):
    src = shared_data / "ogbench_play" / "ogbench_cube_double_play.npz"
    if not src.is_file():
        pytest.skip(f"no {src}")
    assert main(["data", "convert", str(src), str(tmp_path / "out")]) == 0
    assert "40 episodes, 20040 frames" in capsys.readouterr().out
    reader = Reader(tmp_path / "out")
    assert reader.fps == 20
    assert {e.length for e in reader.episodes} == {501}
    with np.load(src) as file:
        np.testing.assert_array_equal(reader.columns["observation.state"], file["observations"])
        np.testing.assert_array_equal(reader.columns["action"], file["actions"])
    state = reader.columns["observation.state"]
    names = reader.observation_spec()["observation.state"].names
    for cosine in [i for i, name in enumerate(names) if name.endswith("yaw_cos")]:
        np.testing.assert_allclose(np.hypot(state[:, cosine], state[:, cosine + 1]), 1.0, atol=1e-5)
    for first in [i for i, name in enumerate(names) if name.endswith("_qw")]:
        np.testing.assert_allclose(np.linalg.norm(state[:, first : first + 4], axis=1), 1.0, atol=1e-5)
