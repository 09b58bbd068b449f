"""The writer: what it puts on disk, what it refuses, and that readers (ours and LeRobot) get back what went in."""

from __future__ import annotations

import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from robopolicy.core.errors import ConfigError, DatasetError, InvalidAction, InvalidObservation
from robopolicy.core.specs import ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets import layout_v3 as v3
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.video_writer import ENCODERS, count_frames, frame_times
from robopolicy.datasets.writer import Writer
from robopolicy.testing.recordings import CAMERA, FPS, record_episode, record_toy, toy_frames, toy_length, toy_specs

EPISODES = 3


def expected(index: int, key: str) -> np.ndarray:
    spec, _ = toy_specs()
    frames = list(toy_frames(index, spec))
    return np.stack([f["action"] if key == "action" else f["obs"][key] for f in frames])


@pytest.fixture(scope="module", params=["video", "png"])
def storage(request):
    return request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory, storage):
    return record_toy(tmp_path_factory.mktemp("writer") / "toy", EPISODES, image_storage=storage)


def test_numbers_come_back_exactly(root):
    reader = Reader(root)
    assert [e.length for e in reader.episodes] == [toy_length(i) for i in range(EPISODES)]
    for key in ("observation.state", "observation.environment_state", "action"):
        want = np.concatenate([expected(i, key) for i in range(EPISODES)])
        np.testing.assert_array_equal(reader.columns[key], want)
    lengths = [toy_length(i) for i in range(EPISODES)]
    np.testing.assert_array_equal(reader.columns["next.reward"], np.concatenate([np.arange(n) for n in lengths]))
    np.testing.assert_array_equal(np.flatnonzero(reader.columns["next.done"]), np.cumsum(lengths) - 1)
    assert reader.task_of(lengths[0]) == "put cube 1 away"


def test_images_come_back(root, storage):
    reader = Reader(root)
    frames = reader.frames(CAMERA, np.arange(reader.num_frames)).astype(int)
    want = np.concatenate([expected(i, CAMERA) for i in range(EPISODES)]).astype(int)
    if storage == "png":
        np.testing.assert_array_equal(frames, want)
    else:
        assert np.abs(frames - want).mean() < 2.0


def test_specs_round_trip_with_names_units_and_bounds(root):
    spec, action = toy_specs()
    reader = Reader(root)
    assert reader.observation_spec() == spec
    assert reader.action_space() == action
    assert reader.fps == FPS
    assert reader.info.raw["robot_type"] == "toy"


def test_layout_is_v3_to_the_letter(root, storage):
    info = json.loads((root / v3.INFO).read_text())
    total = sum(toy_length(i) for i in range(EPISODES))
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", EPISODES, total)
    assert info["total_tasks"] == 3
    assert info["splits"] == {"train": f"0:{EPISODES}"}
    data = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert data.metadata.num_row_groups == EPISODES
    assert data.schema_arrow.metadata is None
    wanted = [k for k, f in info["features"].items() if f["dtype"] != "video"]
    assert data.schema_arrow.names == wanted
    assert str(data.schema_arrow.field("observation.state").type) == "fixed_size_list<element: float>[4]"
    table = data.read()
    np.testing.assert_array_equal(table["index"].to_numpy(), np.arange(total))
    frame_index = table["frame_index"].to_numpy()
    np.testing.assert_array_equal(table["timestamp"].to_numpy(), (frame_index / FPS).astype(np.float32))
    assert not list(root.rglob("*partial*"))
    assert not (root / "images").exists()


def test_episode_table_holds_ranges_metadata_and_statistics(root, storage):
    table = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    stops = np.cumsum([toy_length(i) for i in range(EPISODES)])
    assert table["dataset_to_index"].to_pylist() == stops.tolist()
    assert table["seed"].to_pylist() == [100, 101, 102]
    assert table["success"].to_pylist() == [True] * EPISODES
    state = expected(1, "observation.state").astype(np.float64)
    np.testing.assert_allclose(table["stats/observation.state/std"][1].as_py(), state.std(0), rtol=1e-12)
    np.testing.assert_allclose(table["stats/observation.state/q10"][1].as_py(), np.quantile(state, 0.1, 0), rtol=1e-12)
    image = expected(1, CAMERA) / 255.0
    mean = np.array(table[f"stats/{CAMERA}/mean"][1].as_py())
    assert mean.shape == (3, 1, 1)
    np.testing.assert_allclose(mean.ravel(), image.mean((0, 2, 3)), rtol=1e-9)
    if storage == "video":
        ends = [toy_length(i) / FPS for i in range(EPISODES)]
        assert table[f"videos/{CAMERA}/to_timestamp"].to_pylist() == ends


def test_global_statistics_are_those_of_all_frames(root):
    stats = json.loads((root / v3.STATS).read_text())
    values = np.concatenate([expected(i, "action") for i in range(EPISODES)]).astype(np.float64)
    for name, want in {"mean": values.mean(0), "std": values.std(0), "q01": np.quantile(values, 0.01, 0)}.items():
        np.testing.assert_allclose(stats["action"][name], want, rtol=1e-9)
    pixels = np.concatenate([expected(i, CAMERA) for i in range(EPISODES)]) / 255.0
    np.testing.assert_allclose(np.ravel(stats[CAMERA]["std"]), pixels.std((0, 2, 3)), rtol=1e-9)
    ordered = np.sort(pixels[:, 0].ravel())
    assert np.ravel(stats[CAMERA]["q10"])[0] == ordered[int(np.ceil(0.1 * len(ordered))) - 1]


@pytest.mark.parametrize("codec", sorted(ENCODERS))
def test_each_codec_writes_constant_rate_short_gops(tmp_path, codec, capfd):
    root = record_toy(tmp_path / "toy", 1, video_codec=codec, height=64, width=64)
    path = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    assert count_frames(path) == toy_length(0)
    np.testing.assert_allclose(frame_times(path), np.arange(toy_length(0)) / FPS, atol=1e-9)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        keys = [p.is_keyframe for p in container.demux(stream) if p.size]
        assert (stream.codec_context.name, stream.pix_fmt) in (("h264", "yuv420p"), ("libdav1d", "yuv420p"))
    assert keys[::2] == [True] * len(keys[::2])
    info = json.loads((root / v3.INFO).read_text())
    assert info["features"][CAMERA]["info"]["video.codec"] == ENCODERS[codec][0]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lerobot_loads_it_with_the_same_values(root, storage):
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    deltas = {"action": [-0.1, 0.0, 0.1], CAMERA: [-0.1, 0.0]}
    theirs = lerobot.LeRobotDataset("local/toy", root=root, delta_timestamps=deltas, video_backend="pyav")
    ours = Reader(root)
    assert len(theirs) == ours.num_frames
    for row in (0, toy_length(0), toy_length(0) + 3, ours.num_frames - 1):
        sample = theirs[row]
        assert sample["task"] == ours.task_of(row)
        np.testing.assert_array_equal(sample["observation.state"].numpy(), ours.columns["observation.state"][row])
        np.testing.assert_array_equal(sample["action"][1].numpy(), ours.columns["action"][row])
        assert sample["next.reward"].item() == ours.columns["next.reward"][row]
        image = ours.frames(CAMERA, np.array([row]))[0] / 255.0
        assert np.abs(sample[CAMERA][1].numpy() - image).max() <= 3 / 255
    assert theirs[0]["action_is_pad"].tolist() == [True, False, False]
    assert set(theirs.meta.stats["action"]) >= {"min", "max", "mean", "std", "q01", "q99"}


def test_depth_goals_and_language_keys(tmp_path):
    features = (
        FeatureSpec("observation.depth.front", (1, 6, 8), FeatureKind.DEPTH, unit="m"),
        FeatureSpec("goal.position", (3,), FeatureKind.GOAL),
        FeatureSpec("task", (), FeatureKind.LANGUAGE),
    )
    depth = np.random.default_rng(0).random((4, 1, 6, 8)).astype(np.float32)
    with Writer(tmp_path / "d", 7.5, ObservationSpec(features), ActionSpace(1)) as writer:
        for t in range(4):
            obs = {"observation.depth.front": depth[t], "goal.position": np.ones(3), "task": "go"}
            writer.add_frame(obs, np.array([t]), task="go")
        writer.save_episode()
    reader = Reader(tmp_path / "d")
    np.testing.assert_array_equal(reader.columns["observation.depth.front"], depth)
    assert reader.fps == 7.5
    assert reader.columns["timestamp"][3] == np.float32(3 / 7.5)


def test_discarded_take_leaves_no_frame_behind(tmp_path):
    spec, action = toy_specs()
    with Writer(tmp_path / "d", FPS, spec, action) as writer:
        for frame in toy_frames(8, spec):
            writer.add_frame(**frame)
        writer.discard_episode()
        record_episode(writer, 0)
    reader = Reader(tmp_path / "d")
    assert [e.length for e in reader.episodes] == [toy_length(0)]
    np.testing.assert_array_equal(reader.columns["action"], expected(0, "action"))
    assert count_frames(tmp_path / f"d/videos/{CAMERA}/chunk-000/file-000.mp4") == toy_length(0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"observation.state": np.zeros(3)}, InvalidObservation, "observation.state: expected shape (4,), got (3,)"),
        ({"observation.state": np.full(4, np.nan)}, InvalidObservation, "observation.state: nan at (0,)"),
        ({CAMERA: np.zeros((48, 64, 3), np.uint8)}, InvalidObservation, "channel-first"),
        ({CAMERA: np.zeros((3, 48, 64), np.float32)}, InvalidObservation, "uint8"),
        ({"observation.stat": np.zeros(4)}, InvalidObservation, "did you mean 'observation.state'"),
        ({"action": np.zeros(4)}, InvalidAction, "expected shape (3,), got (4,)"),
        ({"action": np.array([0, np.inf, 0])}, InvalidAction, "inf in channel 1"),
    ],
)
def test_a_bad_frame_is_refused_and_leaves_the_episode_alone(tmp_path, change, error, words):
    spec, space = toy_specs()
    good = list(toy_frames(0, spec))
    with Writer(tmp_path / "d", FPS, spec, space) as writer:
        writer.add_frame(**good[0])
        obs = {**good[1]["obs"], **{k: v for k, v in change.items() if k != "action"}}
        bad = {**good[1], "obs": obs, "action": change.get("action", good[1]["action"])}
        with pytest.raises(error) as caught:
            writer.add_frame(**bad)
        assert words in str(caught.value)
        assert writer.frames_in_episode == 1
        writer.add_frame(**good[1])
        writer.save_episode()
    assert Reader(tmp_path / "d").num_frames == 2


def test_extras_and_metadata_must_stay_the_same(tmp_path):
    spec, space = toy_specs(camera=False)
    frame = next(toy_frames(0, spec))
    with Writer(tmp_path / "d", FPS, spec, space) as writer:
        writer.add_frame(**frame)
        with pytest.raises(InvalidObservation, match=r"expected \['next.done', 'next.reward', 'next.success'\]"):
            writer.add_frame(frame["obs"], frame["action"], "x", reward=1.0)
        with pytest.raises(DatasetError, match="reserved column"):
            writer.save_episode({"length": 3})
        writer.save_episode({"seed": 1})
        writer.add_frame(**frame)
        with pytest.raises(DatasetError, match=r"expected \['seed'\]"):
            writer.save_episode({"sed": 1})
        writer.save_episode({"seed": 2})


def test_misuse_has_clear_errors(tmp_path):
    spec, space = toy_specs(height=47)
    with pytest.raises(ConfigError, match="even sides"):
        Writer(tmp_path / "odd", FPS, spec, space)
    with pytest.raises(ConfigError, match="not one of libx264, libsvtav1"):
        Writer(tmp_path / "codec", FPS, toy_specs()[0], space, video_codec="vp9")
    record_toy(tmp_path / "full", 1, camera=False)
    with pytest.raises(DatasetError, match="not empty"):
        Writer(tmp_path / "full", FPS, spec, space)
    writer = Writer.resume(tmp_path / "full")
    with pytest.raises(DatasetError, match="without a frame"):
        writer.save_episode({"seed": 1, "success": True})
    writer.add_frame(**next(toy_frames(0, toy_specs(camera=False)[0])))
    with pytest.raises(DatasetError, match="1 frames are not saved"):
        writer.finalize()


def test_exception_in_the_with_block_keeps_closed_episodes(tmp_path, caplog):
    spec, space = toy_specs()

    def record() -> None:
        with Writer(tmp_path / "d", FPS, spec, space) as writer:
            record_episode(writer, 0)
            writer.add_frame(**next(toy_frames(1, spec)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert "1 closed episodes are kept" in caplog.text
    assert Reader(tmp_path / "d").num_frames == toy_length(0)
    assert not list(tmp_path.rglob("*partial*"))
