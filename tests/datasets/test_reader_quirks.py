"""Departures from the format met in public datasets: named, and read on where that is safe."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_info import flat_names
from robopolicy.datasets.reader_v3 import sorted_files
from robopolicy.testing.datasets import TASKS, make_tiny_dataset

CAMERA = "observation.images.cam0"
LENGTHS = (8, 10, 9)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    base = tmp_path_factory.mktemp("originals")
    return {v: make_tiny_dataset(base / v, v, 3, LENGTHS, size=(16, 16)) for v in ("v2.1", "v3.0")}


@pytest.fixture
def v21(originals, tmp_path):
    return shutil.copytree(originals["v2.1"], tmp_path / "v21")


@pytest.fixture
def v30(originals, tmp_path):
    return shutil.copytree(originals["v3.0"], tmp_path / "v30")


def edit_info(root, change):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_table(path, change):
    table = change(pq.read_table(path))
    pq.write_table(table, path)


def replace_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, [values])


def codes(reader):
    return {d.code for d in reader.defects}


def assert_reads_like(reader, original):
    whole = Reader(original)
    for key in ("observation.state", "action", "index"):
        np.testing.assert_array_equal(reader.columns[key], whole.columns[key])
    rows = np.array([0, 7, 8, 26])
    camera = reader.camera_keys[0]
    np.testing.assert_array_equal(reader.frames(camera, rows), whole.frames(CAMERA, rows))


@pytest.mark.parametrize(
    ("names", "flat"),
    [
        (["a", "b"], ("a", "b")),
        ([["a", "b"]], ("a", "b")),
        ({"motors": ["a", "b"]}, ("a", "b")),
        ({"arm": ["a"], "hand": ["b"]}, ("a", "b")),
        ({"b": 1, "a": 0}, ("a", "b")),
        (None, None),
        ([], None),
    ],
)
def test_spellings_of_names(names, flat, v30):
    assert flat_names(names) == flat
    edit_info(v30, lambda i: i["features"]["action"].update(names=names))
    assert Reader(v30).action_space().names == flat


def test_names_of_the_wrong_length_are_dropped(v30, originals):
    edit_info(v30, lambda i: i["features"]["observation.state"].update(names=["a", "b", "c"]))
    reader = Reader(v30)
    assert codes(reader) == {"names-length"}
    assert reader.observation_spec()["observation.state"].names is None
    assert_reads_like(reader, originals["v3.0"])


def test_version_is_told_by_the_files_when_missing(v21, v30):
    for root, version in ((v21, "v2.1"), (v30, "v3.0")):
        edit_info(root, lambda i: i.pop("codebase_version"))
        reader = Reader(root)
        assert reader.version == version
        assert codes(reader) == {"no-version"}
    edit_info(v30, lambda i: i.update(codebase_version="v1.6"))
    with pytest.raises(DatasetError, match=r"'v1\.6'; expected v2\.0, v2\.1 or v3\.0"):
        Reader(v30)


def test_damaged_info_is_refused(v30):
    path = v30 / "meta/info.json"
    edit_info(v30, lambda i: i.pop("fps"))
    with pytest.raises(DatasetError, match="'fps' > 0, got None"):
        Reader(v30)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DatasetError, match=r"info\.json: not valid JSON"):
        Reader(v30)
    path.unlink()
    with pytest.raises(DatasetError, match=r"info\.json: missing"):
        Reader(v30)


def test_default_columns_may_be_undeclared_and_timestamps_double(v30, originals):
    def forget(info):
        for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
            del info["features"][key]
        info["splits"] = {"train": "0:1"}
        info["total_frames"] = 10**6

    edit_info(v30, forget)
    for path in sorted((v30 / "data").rglob("*.parquet")):
        edit_table(path, lambda t: replace_column(t, "timestamp", t["timestamp"].cast(pa.float64())))
    reader = Reader(v30)
    assert codes(reader) == {"default-columns-undeclared"}
    assert reader.columns["timestamp"].dtype == np.float32
    assert_reads_like(reader, originals["v3.0"])


def test_keys_without_prefix_are_mapped(v21, originals):
    new = {"observation.state": "state", "action": "actions", CAMERA: "image"}

    def rename(info):
        info["features"] = {new.get(k, k): v for k, v in info["features"].items()}

    edit_info(v21, rename)
    for path in (v21 / "data").rglob("*.parquet"):
        edit_table(path, lambda t: t.rename_columns([new.get(n, n) for n in t.column_names]))
    (v21 / "videos/chunk-000" / CAMERA).rename(v21 / "videos/chunk-000/image")
    reader = Reader(v21)
    assert codes(reader) == {"key-without-prefix"}
    assert reader.camera_keys == ("observation.images.image",)
    assert_reads_like(reader, originals["v2.1"])


def test_other_folder_and_template_for_videos(v21, v30, originals):
    for root in (v21, v30):
        (root / "videos").rename(root / "video")
    assert_reads_like(Reader(v30), originals["v3.0"])
    reader = Reader(v21)
    assert codes(reader) == {"template"}
    assert_reads_like(reader, originals["v2.1"])
    template = "data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet"
    edit_info(v21, lambda i: i.update(data_path=template))
    assert_reads_like(Reader(v21), originals["v2.1"])
    edit_info(v21, lambda i: i.update(data_path="data/{nonsense}.parquet"))
    with pytest.raises(DatasetError, match="cannot be filled"):
        Reader(v21)


def test_one_mp4_per_episode_in_a_v3_layout(v30, originals):
    shutil.rmtree(v30 / "videos")
    shutil.copytree(originals["v2.1"] / "videos", v30 / "videos")
    edit_table(
        v30 / "meta/episodes/chunk-000/file-000.parquet",
        lambda t: t.drop_columns([n for n in t.column_names if n.startswith("videos/")]),
    )
    reader = Reader(v30)
    assert "video-per-episode" in codes(reader)
    assert_reads_like(reader, originals["v3.0"])


def test_v2_tables_in_a_v3_set(v30, originals):
    shutil.rmtree(v30 / "meta/episodes")
    shutil.copy(originals["v2.1"] / "meta/episodes.jsonl", v30 / "meta")
    shutil.rmtree(v30 / "videos")
    shutil.copytree(originals["v2.1"] / "videos", v30 / "videos")
    edit_info(v30, lambda i: i.update(video_path=None))
    reader = Reader(v30)
    assert "v2-tables" in codes(reader)
    assert_reads_like(reader, originals["v3.0"])


def test_camera_of_dtype_uint8(v30, originals):
    edit_info(v30, lambda i: i["features"][CAMERA].update(dtype="uint8", shape=[3, 16, 16], names=None))
    reader = Reader(v30)
    assert codes(reader) == {"camera-dtype"}
    assert reader.observation_spec()[CAMERA].shape == (3, 16, 16)
    assert_reads_like(reader, originals["v3.0"])


def test_channel_first_camera_shapes(v30):
    named = {"shape": [3, 16, 16], "names": ["channel", "height", "width"]}
    edit_info(v30, lambda i: i["features"][CAMERA].update(named))
    assert Reader(v30).features[CAMERA].shape == (3, 16, 16)


def test_encoded_depth_is_left_out(v30):
    edit_info(v30, lambda i: i["features"][CAMERA].update(info={"video.is_depth_map": True}))
    reader = Reader(v30)
    assert codes(reader) == {"depth-video"}
    assert reader.camera_keys == ()


def test_tasks_are_looked_up_by_value(v30):
    table = pa.table({"__index_level_0__": [TASKS[1], TASKS[0]], "task_index": [1, 0]})
    pq.write_table(table, v30 / "meta/tasks.parquet")
    reader = Reader(v30)
    assert [reader.task_of(e.start) for e in reader.episodes] == [TASKS[0], TASKS[1], TASKS[0]]
    (v30 / "meta/tasks.parquet").unlink()
    assert Reader(v30).task_of(8) == TASKS[1]  # from the episode table


def test_file_indices_of_the_converter_are_not_needed(v30, originals):
    path = v30 / "meta/episodes/chunk-000/file-000.parquet"
    edit_table(path, lambda t: replace_column(t, "data/file_index", pa.array([0, 0, 0])))
    edit_table(path, lambda t: replace_column(t, "dataset_from_index", pa.array([5, 5, 5])))
    assert_reads_like(Reader(v30), originals["v3.0"])


def test_extra_and_missing_columns(v30, originals):
    for path in sorted((v30 / "data").rglob("*.parquet")):
        edit_table(path, lambda t: t.append_column("debug", pa.array(np.zeros(t.num_rows))).drop_columns(["next.done"]))
    reader = Reader(v30)
    assert codes(reader) == {"column-undeclared", "column-missing"}
    assert "next.done" not in reader.keys
    with pytest.raises(KeyError, match=r"no column 'next\.done'"):
        reader.columns["next.done"]
    assert_reads_like(reader, originals["v3.0"])


def test_variable_length_lists_are_read_and_ragged_ones_refused(v30, originals):
    first = sorted((v30 / "data").rglob("*.parquet"))[0]
    values = pq.read_table(first)["action"].to_pylist()
    as_lists = pa.array(values, pa.list_(pa.float32()))
    edit_table(first, lambda t: replace_column(t, "action", as_lists))
    assert_reads_like(Reader(v30), originals["v3.0"])
    values[5] = values[5] + [0.0]
    ragged = pa.array(values, pa.list_(pa.float32()))
    edit_table(first, lambda t: replace_column(t, "action", ragged))
    with pytest.raises(DatasetError, match=r"column 'action' has 2 to 3 values a row.*first wrong row is 5"):
        Reader(v30).columns["action"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_cut_parquet_footers(v21, v30):
    truncate(v30 / "data/chunk-000/file-001.parquet")
    with pytest.raises(DatasetError, match=r"file-001\.parquet: unreadable parquet"):
        Reader(v30)
    truncate(v21 / "data/chunk-000/episode_000001.parquet")
    with pytest.raises(DatasetError, match=r"episode_000001\.parquet: unreadable parquet"):
        Reader(v21)
    assert Reader(v21, episodes=[0, 2]).num_frames == 17


def lose_video(root):
    (root / "videos/chunk-000" / CAMERA / "episode_000001.mp4").unlink()


def lose_table(root):
    (root / "data/chunk-000/episode_000001.parquet").unlink()


def lose_rows(root):
    edit_table(root / "data/chunk-000/episode_000001.parquet", lambda t: t.slice(0, 7))


def shuffle_rows(root):
    order = [0, 2, 1, *range(3, 10)]
    edit_table(root / "data/chunk-000/episode_000001.parquet", lambda t: t.take(order))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lose_video, "video-missing"),
        (lose_table, "episode-rows"),
        (lose_rows, "episode-rows"),
        (shuffle_rows, "frame-order"),
    ],
)
def test_a_bad_episode_is_refused_by_id_or_skipped(v21, originals, damage, code):
    damage(v21)
    with pytest.raises(DatasetError, match=rf"\[{code}\] episode 1:.*on_defect='skip'"):
        Reader(v21)
    reader = Reader(v21, on_defect="skip")
    assert [(e.index, e.start) for e in reader.episodes] == [(0, 0), (2, 8)]
    assert [(d.code, d.episode) for d in reader.defects] == [(code, 1)]
    kept = Reader(originals["v2.1"], episodes=[0, 2])
    np.testing.assert_array_equal(reader.columns["action"], kept.columns["action"])
    np.testing.assert_array_equal(reader.frames(CAMERA, np.arange(17)), kept.frames(CAMERA, np.arange(17)))


def test_duplicate_ids_and_short_tables_in_v3(v30):
    second = v30 / "data/chunk-000/file-001.parquet"
    edit_table(second, lambda t: replace_column(t, "episode_index", pa.array(np.zeros(t.num_rows, np.int64))))
    with pytest.raises(DatasetError, match=r"\[episode-duplicate\] episode 0.*1 more episodes"):
        Reader(v30)
    reader = Reader(v30, on_defect="skip")
    assert [e.index for e in reader.episodes] == [1]
    assert {(d.code, d.episode) for d in reader.defects} == {("episode-duplicate", 0), ("episode-rows", 2)}
    second.unlink()
    assert [e.index for e in Reader(v30, on_defect="skip").episodes] == [0, 1]
    path = v30 / "meta/episodes/chunk-000/file-000.parquet"
    edit_table(path, lambda t: replace_column(t, "episode_index", pa.array([0, 0, 2])))
    with pytest.raises(DatasetError, match="episode 0 is listed twice"):
        Reader(v30)


def test_files_sort_by_number(tmp_path):
    names = [f"chunk-{c:03d}/file-{f:03d}.parquet" for c, f in [(1000, 0), (101, 0), (2, 10), (2, 9), (2, 1000)]]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    expected = [names[i] for i in (3, 2, 4, 1, 0)]
    assert [p.relative_to(tmp_path).as_posix() for p in sorted_files(tmp_path, "parquet")] == expected


def test_pictures_outside_the_dataset_are_not_opened(tmp_path):
    root = make_tiny_dataset(tmp_path / "set", "v2.1", 1, 3, images="image", size=(16, 16))
    path = root / "data/chunk-000/episode_000000.parquet"
    cells = pq.read_table(path)[CAMERA].to_pylist()
    (tmp_path / "outside.png").write_bytes(cells[0]["bytes"])
    (root / "inside.png").write_bytes(cells[1]["bytes"])
    cells[0] = {"bytes": None, "path": "../outside.png"}
    cells[1] = {"bytes": None, "path": "inside.png"}
    cells[2]["bytes"] = cells[2]["bytes"][:40]
    kind = pq.read_schema(path).field(CAMERA).type
    edit_table(path, lambda t: replace_column(t, CAMERA, pa.array(cells, kind)))
    reader = Reader(root)
    assert reader.frames(CAMERA, np.array([1])).shape == (1, 3, 16, 16)
    with pytest.raises(DatasetError, match="no picture in the table"):
        reader.frames(CAMERA, np.array([0]))
    with pytest.raises(DatasetError, match="row 2: damaged picture"):
        reader.frames(CAMERA, np.array([2]))
