"""The doctor finds every known way to corrupt a dataset, in every version, and nothing in sound ones."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.doctor import diagnose, examine, exit_code, jitter_table
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.recordings import record_toy
from robopolicy.testing.tiny_video import encode

VERSIONS = ("v2.0", "v2.1", "v3.0")
CAM = "observation.images.cam0"
VICTIM = 1  # with one episode a file in v3, file 1 is that of episode 1


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def root(tmp_path, version):
    return tiny(tmp_path, version)


def tiny(tmp_path, version, **kwargs):
    return make_tiny_dataset(tmp_path / version, version, length=(12, 15, 11), episodes_per_file=1, **kwargs)


def data_file(root, version):
    v3, v2 = f"data/chunk-000/file-{VICTIM:03d}.parquet", f"data/chunk-000/episode_{VICTIM:06d}.parquet"
    return root / (v3 if version == "v3.0" else v2)


def video_file(root, version):
    v3, v2 = f"{CAM}/chunk-000/file-{VICTIM:03d}.mp4", f"chunk-000/{CAM}/episode_{VICTIM:06d}.mp4"
    return root / "videos" / (v3 if version == "v3.0" else v2)


def edit_rows(path, column, change):
    table = pq.read_table(path)
    values = change(np.array(table[column].to_pylist()))
    kind = table.schema.field(column).type
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values.tolist(), kind)), path)


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_episode_table(root, column, change):
    edit_rows(root / "meta/episodes/chunk-000/file-000.parquet", column, change)


def only(findings, code, episode=VICTIM):
    """The findings of one code, all of them about one episode."""
    mine = [f for f in findings if f.code == code]
    assert mine, [str(f) for f in findings]
    assert {f.episode for f in mine} == {episode}
    assert all(f.mend for f in mine)
    assert exit_code(findings) == 1
    return mine


def test_a_sound_dataset_has_no_findings(root):
    assert [str(f) for f in diagnose(root, deep=True)] == []
    assert exit_code([]) == 0


def test_our_recordings_are_sound(tmp_path):
    assert [str(f) for f in diagnose(record_toy(tmp_path / "d"), deep=True)] == []


def test_parquet_footer_cut(root, version):
    path = data_file(root, version)
    path.write_bytes(path.read_bytes()[:-200])
    findings = diagnose(root)
    assert only(findings, "parquet-unreadable", None)[0].file == path.relative_to(root).as_posix()
    assert only(findings, "episode-rows")[0].file == path.relative_to(root).as_posix()


def test_video_truncated(root, version):
    path = video_file(root, version)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert only(diagnose(root), "video-unreadable")[0].file == path.relative_to(root).as_posix()


@pytest.mark.parametrize(("extra", "code"), [(-1, "video-short"), (1, "video-frames")])
def test_frame_count_off_by_one(root, version, extra, code):
    encode(video_file(root, version), np.zeros((15 + extra, 32, 32, 3), np.uint8), 10)
    assert str(15 + extra) in only(diagnose(root), code)[0].message


def test_nan_in_action(root, version):
    def spoil(values):
        values[3, 1] = np.nan
        return values

    edit_rows(data_file(root, version), "action", spoil)
    message = only(diagnose(root), "non-finite")[0].message
    assert "action: 1 frames" in message
    assert "frame 3, channel 1" in message


def test_timestamps_shuffled(root, version):
    edit_rows(data_file(root, version), "timestamp", lambda t: np.random.default_rng(0).permutation(t))
    only(diagnose(root), "timestamps-order")
    assert jitter_table(examine(root))[0].episode == VICTIM


def test_timestamp_jitter_names_the_worst_episode_first(root, version):
    edit_rows(data_file(root, version), "timestamp", lambda t: t + 0.003 * (np.arange(len(t)) == 7))
    finding = only(diagnose(root), "timestamps-jitter")[0]
    assert finding.severity == "warning"
    worst = jitter_table(examine(root))[0]
    assert (worst.episode, worst.worst_frame, worst.backward_steps) == (VICTIM, 7, 0)
    assert worst.worst_ms == pytest.approx(3.0, abs=1e-3)


def test_duplicate_episode_id_in_the_rows(root, version):
    edit_rows(data_file(root, version), "episode_index", lambda ids: np.zeros_like(ids))
    findings = diagnose(root)
    only(findings, "episode-duplicate", 0)
    only(findings, "episode-rows")


def test_duplicate_episode_id_in_the_table(root, version):
    if version == "v3.0":
        edit_episode_table(root, "episode_index", lambda ids: np.array([0, 1, 1]))
    else:
        path = root / "meta/episodes.jsonl"
        path.write_text(path.read_text().replace('"episode_index": 2', '"episode_index": 1'))
    findings = diagnose(root)
    only(findings, "episode-duplicate")
    only(findings, "episode-unlisted", 2)


def test_missing_statistics(root, version):
    if version == "v2.1":
        path = root / "meta/episodes_stats.jsonl"
        path.write_text("".join(line + "\n" for i, line in enumerate(path.read_text().splitlines()) if i != VICTIM))
        assert "no statistics stored" in only(diagnose(root), "stats-missing")[0].message
    else:
        (root / "meta/stats.json").unlink()
        only(diagnose(root), "stats-missing", None)


def edit_stats(root, version, change):
    """Apply ``change`` to the statistics of everything, or of the victim episode in v2.1."""
    if version != "v2.1":
        edit_json(root / "meta/stats.json", change)
        return None
    path = root / "meta/episodes_stats.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[VICTIM]["stats"])
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return VICTIM


def test_statistics_of_the_wrong_size(root, version):
    episode = edit_stats(root, version, lambda s: s["action"].update(mean=[0.0]))
    assert "'mean' has 1 numbers, expected 2" in only(diagnose(root), "stats-size", episode)[0].message


def test_zero_std(root, version):
    episode = edit_stats(root, version, lambda s: s["action"].update(std=[0.0, s["action"]["std"][1]]))
    assert "std 0 in channels 0" in only(diagnose(root), "stats-zero-std", episode)[0].message


def test_untrue_statistics(root, version):
    episode = edit_stats(root, version, lambda s: s["observation.state"]["max"].__setitem__(2, 5.0))
    assert "'max' of channel 2 is stored as 5" in only(diagnose(root), "stats-wrong", episode)[0].message


def test_constant_channel_is_only_a_note(root, version):
    for path in sorted((root / "data").rglob("*.parquet")):
        edit_rows(path, "action", lambda a: a * [1, 0])
    edit_stats(root, version, lambda s: s.pop("action"))
    notes = [f for f in diagnose(root) if f.severity == "note"]
    assert [f.message for f in notes] == ["action: channels 1 never change"]


def test_extra_and_missing_columns(root, version):
    path = data_file(root, version)
    table = pq.read_table(path)
    pq.write_table(table.append_column("surprise", table["index"]).drop_columns(["next.reward"]), path)
    findings = diagnose(root)
    assert "'surprise'" in only(findings, "column-undeclared", None)[0].message
    episode = None if version == "v3.0" else VICTIM
    assert "'next.reward'" in only(findings, "column-missing", episode)[0].message


def test_vectors_of_another_length(root, version):
    path = data_file(root, version)
    table = pq.read_table(path)
    short = pa.array([row[:-1] for row in table["action"].to_pylist()], pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.column_names.index("action"), "action", short), path)
    episode = None if version == "v3.0" else VICTIM
    assert "'action'" in only(diagnose(root), "column-shape", episode)[0].message


@pytest.mark.parametrize("name", ["total_episodes", "total_frames", "total_tasks"])
def test_wrong_totals(root, name):
    edit_json(root / "meta/info.json", lambda i: i.update({name: 99}))
    assert f"'{name}' is 99" in only(diagnose(root), "totals", None)[0].message


def test_index_gap_names_the_episode_after_it(root, version):
    edit_rows(data_file(root, version), "index", lambda i: i + 4)
    gaps = [f for f in diagnose(root) if f.code == "index-gap"]
    assert [g.episode for g in gaps] == [VICTIM, VICTIM + 1]


def test_frames_out_of_order(root, version):
    edit_rows(data_file(root, version), "frame_index", lambda f: f[::-1])
    only(diagnose(root), "frame-order")


def test_missing_video(root, version):
    video_file(root, version).unlink()
    only(diagnose(root), "video-missing")


def test_rows_lost(root, version):
    path = data_file(root, version)
    pq.write_table(pq.read_table(path).slice(0, 14), path)
    assert "14 rows in the data, 15 in the episode table" in only(diagnose(root), "episode-length")[0].message


def test_task_rows_permuted(root, version):
    if version == "v3.0":
        path = root / "meta/tasks.parquet"
        pq.write_table(pq.read_table(path).take([1, 0]), path)
    else:
        path = root / "meta/tasks.jsonl"
        path.write_text("\n".join(reversed(path.read_text().splitlines())))
    only(diagnose(root), "tasks-order", None)


def test_task_sentences_exchanged(root, version):
    if version == "v3.0":
        path = root / "meta/tasks.parquet"
        edit_rows(path, "task", lambda t: t[::-1])
    else:
        path = root / "meta/tasks.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["task"], rows[1]["task"] = rows[1]["task"], rows[0]["task"]
        path.write_text("\n".join(json.dumps(r) for r in rows))
    assert {f.episode for f in diagnose(root) if f.code == "tasks-mismatch"} == {0, 1, 2}


def test_v3_from_timestamp_half_a_frame_late(tmp_path):
    root = tiny(tmp_path, "v3.0")
    edit_episode_table(root, f"videos/{CAM}/from_timestamp", lambda t: t + 0.05 * (np.arange(3) == VICTIM))
    assert "0.50 frames beside" in only(diagnose(root), "video-offset")[0].message


def test_v3_from_timestamp_of_a_neighbour_in_a_shared_file(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v3.0", length=(12, 15, 11), episodes_per_file=3)
    edit_episode_table(root, f"videos/{CAM}/from_timestamp", lambda t: t - 0.1 * (np.arange(3) == VICTIM))
    offsets = [f for f in diagnose(root) if f.code == "video-offset"]
    assert offsets[0].episode == VICTIM
    assert "starts at frame 11" in offsets[0].message


def test_v3_to_index_plus_one(tmp_path):
    root = tiny(tmp_path, "v3.0")
    edit_episode_table(root, "dataset_to_index", lambda t: t + (np.arange(3) == VICTIM))
    assert "(12, 28), the lengths say (12, 27)" in only(diagnose(root), "episode-range")[0].message


def test_v3_tasks_without_pandas_index(tmp_path):
    root = tiny(tmp_path, "v3.0")
    path = root / "meta/tasks.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    only(diagnose(root), "tasks-index", None)


def test_v3_truncated_episode_table(tmp_path):
    root = tiny(tmp_path, "v3.0")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    findings = diagnose(root)
    assert {f.episode for f in findings if f.code == "episode-unlisted"} == {0, 1, 2}


def test_several_faults_do_not_hide_one_another(root, version):
    data_file(root, version).write_bytes(b"PAR1 not any more")
    video_file(root, version).unlink()
    edit_json(root / "meta/info.json", lambda i: i.update(total_frames=1))
    assert {"parquet-unreadable", "episode-rows", "video-missing", "totals"} <= {f.code for f in diagnose(root)}


def test_no_dataset_at_all(tmp_path):
    with pytest.raises(DatasetError, match=r"info\.json: missing"):
        diagnose(tmp_path)


def damage(data, chance):
    """Flip a few bits, cut, empty, or make a table's numbers senseless."""
    kind = chance.choice(["flip", "cut", "empty", "null"])
    if kind == "flip":
        spoiled = bytearray(data)
        for _ in range(chance.choice([1, 8])):
            spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
        return bytes(spoiled)
    if kind == "null":
        return data.replace(b'"length": 6', b'"length": null').replace(b'"shape": [2]', b'"shape": "two"')
    return data[: chance.randrange(len(data))] if kind == "cut" else b""


def test_random_damage_never_ends_in_a_raw_exception(tmp_path, version):
    root = make_tiny_dataset(tmp_path / "d", version, episodes=2, length=6)
    files = sorted(p for p in root.rglob("*") if p.is_file())
    noticed = 0
    for seed in range(24):
        chance = random.Random(seed)
        path = chance.choice(files)
        sound = path.read_bytes()
        path.write_bytes(damage(sound, chance))
        try:
            noticed += bool(diagnose(root))
        except DatasetError:
            noticed += 1
        path.write_bytes(sound)
    # Flips inside compressed pixels can go unseen without --deep; cuts and senseless tables cannot.
    assert noticed >= 12


def test_time_stamps_of_another_dtype(root, version):
    path = data_file(root, version)
    table = pq.read_table(path)
    wide = table["timestamp"].cast(pa.float64())
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", wide), path)
    message = only(diagnose(root), "column-dtype", None)[0].message
    assert message == "column 'timestamp' holds double, info.json says float32"


@pytest.mark.parametrize("change", [{"shape": "two"}, {"shape": [None]}, {"names": 5}, {"dtype": None}])
def test_senseless_feature_is_a_finding_or_one_clean_refusal(tmp_path, change):
    root = tiny(tmp_path, "v3.0")
    edit_json(root / "meta/info.json", lambda i: i["features"]["action"].update(change))
    if "dtype" in change:
        assert "holds float, info.json says None" in only(diagnose(root), "column-dtype", None)[0].message
    else:
        with pytest.raises(DatasetError, match=r"info\.json: a shape, names or chunks_size makes no sense"):
            diagnose(root)


@pytest.mark.shared_data
def test_names_both_upstream_statistics_faults_of_the_real_recording(shared_data):
    codes = {f.code for f in diagnose(shared_data / "pusht/lerobot_v30")}
    assert codes == {"stats-image-std", "stats-quantiles"}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["pusht/lerobot_v21_12ep", "g1_bottle/lerobot_v21_2ep", "g1_bottle/lerobot_v30_4ep"])
def test_sound_real_datasets_are_clean(shared_data, name):
    assert exit_code(diagnose(shared_data / name)) == 0
