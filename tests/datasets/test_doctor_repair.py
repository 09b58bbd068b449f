"""Repair rebuilds metadata only, keeps the originals, and refuses to paper over damaged data."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.doctor import diagnose
from robopolicy.datasets.doctor_repair import repair
from robopolicy.datasets.reader import Reader
from robopolicy.testing.datasets import make_tiny_dataset


def digest(root, *folders):
    """Hash of every file below some folders of a dataset."""
    files = sorted(p for folder in folders for p in (root / folder).rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def break_totals(root, version):
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"total_frames": 38', '"total_frames": 37'))


def break_splits(root, version):
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"0:3"', '"0:9"'))


def break_stats(root, version):
    path = root / ("meta/episodes_stats.jsonl" if version == "v2.1" else "meta/stats.json")
    if version == "v2.1":
        path.write_text("\n".join(path.read_text().splitlines()[:2]))
    else:
        stats = json.loads(path.read_text())
        stats["action"]["std"] = [0.0, 0.0]
        stats["observation.images.cam0"]["std"] = [[[1e-4]]] * 3
        path.write_text(json.dumps(stats))


def break_task_order(root, version):
    if version == "v3.0":
        path = root / "meta/tasks.parquet"
        pq.write_table(pq.read_table(path).take([1, 0]), path)
    else:
        path = root / "meta/tasks.jsonl"
        path.write_text("\n".join(reversed(path.read_text().splitlines())))


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
@pytest.mark.parametrize("harm", [break_totals, break_splits, break_stats, break_task_order])
def test_mended_and_the_rest_untouched(tmp_path, version, harm):
    root = make_tiny_dataset(tmp_path / "d", version, length=(12, 15, 11))
    before = digest(root, "data", "videos")
    harm(root, version)
    harmed = digest(root, "meta")
    assert diagnose(root)
    done = repair(root)
    assert len(done) == 1
    assert "meta/backup-1" in done[0]
    assert diagnose(root) == []
    assert digest(root, "data", "videos") == before
    kept = {k.split("backup-1/")[1]: v for k, v in digest(root, "meta").items() if "backup-1" in k}
    assert kept
    assert all(harmed[k] == v for k, v in kept.items())
    assert repair(root) == []
    assert Reader(root).num_frames == 38


def test_index_ranges_are_rebuilt_from_the_lengths(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v3.0", length=(12, 15, 11))
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    wrong = pa.array(np.add(table["dataset_to_index"].to_pylist(), [0, 1, 0]))
    pq.write_table(table.set_column(table.column_names.index("dataset_to_index"), "dataset_to_index", wrong), path)
    repair(root)
    assert pq.read_table(path)["dataset_to_index"].to_pylist() == [12, 27, 38]
    assert diagnose(root) == []


def test_statistics_are_not_rebuilt_over_damaged_rows(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v3.0", episodes_per_file=1)
    (root / "meta/stats.json").unlink()
    (root / "data/chunk-000/file-001.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"mend this first.*episode 1"):
        repair(root)
    assert not (root / "meta/stats.json").exists()


@pytest.mark.shared_data
def test_true_statistics_replace_upstreams(shared_data, tmp_path):
    import shutil

    root = tmp_path / "pusht"
    shutil.copytree(shared_data / "pusht/lerobot_v30", root, copy_function=shutil.copyfile)
    repair(root)
    assert diagnose(root) == []
    stats = json.loads((root / "meta/stats.json").read_text())
    # Figures of the format notes, section 6: what the data really say.
    np.testing.assert_allclose(stats["action"]["q01"], [42, 81], atol=1)
    np.testing.assert_allclose(stats["action"]["q99"], [450, 478], atol=1)
    np.testing.assert_allclose(np.ravel(stats["observation.image"]["std"]), [0.101, 0.071, 0.077], atol=0.01)
