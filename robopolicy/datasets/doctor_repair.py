"""Rebuilds the metadata that can be rebuilt from the data: totals, statistics, task order, index ranges.

Data files and videos are never touched.  Every file that changes is first copied to ``meta/backup-N/`` (N counts up),
and is then replaced atomically.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopolicy.core.errors import DatasetError
from robopolicy.core.io import write_atomic
from robopolicy.datasets.doctor import examine
from robopolicy.datasets.doctor_meta import true_totals
from robopolicy.datasets.doctor_stats import sample_pixels
from robopolicy.datasets.doctor_types import Finding, Survey
from robopolicy.datasets.episode_stats import PixelHistogram, describe, to_json
from robopolicy.datasets.layout_v3 import INFO, STATS, TASKS, parquet_bytes, tasks_bytes
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_v3 import sorted_files

MENDABLE = {
    "totals", "splits", "tasks-order", "tasks-index", "episode-range",
    "stats-missing", "stats-size", "stats-nonfinite", "stats-zero-std", "stats-wrong", "stats-quantiles",
    "stats-image-std", "stats-damaged",
}  # fmt: skip
EPISODE_FRAMES = 16


def repair(root: str | Path) -> list[str]:
    """Mend what is mendable and return one line for each file rewritten; the rest of the findings stay.

    Raises ``DatasetError`` when rows are missing or not finite: statistics of damaged data would hide the damage.
    """
    root = Path(root)
    found = examine(root)
    codes = {f.code for f in found.findings if f.code in MENDABLE}
    if not codes:
        return []
    done: list[str] = []
    backup = _Backup(root)
    if codes & {"tasks-order", "tasks-index"} and found.info.major == 3:
        done.append(_repair_tasks(found, backup))
    elif "tasks-order" in codes:
        lines = [json.dumps({"task_index": i, "task": text}) + "\n" for i, text in sorted(found.tasks)]
        done.append(backup.replace("meta/tasks.jsonl", "".join(lines)))
    if "episode-range" in codes:
        done += _repair_ranges(found, backup)
    if any(code.startswith("stats") for code in codes):
        _refuse_damage(found)
        done += _repair_stats(found, backup)
    if codes & {"totals", "splits"}:
        count = len(found.entry_by_id())
        totals = {"splits": {"train": f"0:{count}"}, **true_totals(found)}
        info = {**found.info.raw, **{k: v for k, v in totals.items() if k in found.info.raw or k != "splits"}}
        done.append(backup.replace(INFO, json.dumps(info, indent=4)))
    return done


class _Backup:
    """Copies originals aside, then replaces them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        number = 1
        while (root / f"meta/backup-{number}").exists():
            number += 1
        self.folder = root / f"meta/backup-{number}"

    def replace(self, name: str, content: bytes | str) -> str:
        """Replace the file ``name`` (relative to the root) and return a line that says so."""
        path = self.root / name
        if not path.exists():
            write_atomic(path, content)
            return f"wrote {name}"
        kept = self.folder / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, kept)
        write_atomic(path, content)
        return f"rewrote {name} (the original is in {self.folder.relative_to(self.root)})"


def _refuse_damage(found: Survey) -> None:
    fatal = ("episode-rows", "non-finite", "column-shape", "column-missing", "episode-length", "episode-duplicate")
    damage: list[Finding] = [f for f in found.findings if f.code in fatal]
    if damage:
        raise DatasetError(f"statistics are not rebuilt over damaged data; mend this first: {damage[0]}")


def _repair_tasks(found: Survey, backup: _Backup) -> str:
    sentences = [text for _, text in sorted(found.tasks)]
    if [i for i, _ in sorted(found.tasks)] != list(range(len(sentences))):
        raise DatasetError(f"{found.root / TASKS}: task_index is not 0, 1, 2, ...; restore the table from a copy")
    return backup.replace(TASKS, tasks_bytes(sentences))


def _repair_ranges(found: Survey, backup: _Backup) -> list[str]:
    lengths = {e.index: e.length for e in found.entries}
    starts, start = {}, 0
    for index in sorted(lengths):
        starts[index] = start
        start += lengths[index]
    done = []
    for path in sorted_files(found.root / "meta" / "episodes", "parquet"):
        table = pq.read_table(path)
        ids = table["episode_index"].to_pylist()
        new = {
            "dataset_from_index": [starts[i] for i in ids],
            "dataset_to_index": [starts[i] + lengths[i] for i in ids],
        }
        for name, values in new.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
        done.append(backup.replace(path.relative_to(found.root).as_posix(), parquet_bytes([table], table.schema)))
    return done


def _numbers(found: Survey, rows: np.ndarray) -> dict[str, Any]:
    columns = {k: v for k, v in found.rows.columns.items() if v.dtype.kind in "fib"}
    return {k: describe(v[rows].reshape(len(rows), -1)) for k, v in columns.items()}


def _repair_stats(found: Survey, backup: _Backup) -> list[str]:
    """``stats.json`` from all rows and a sample of frames; for v2.1 one line an episode."""
    if found.info.version != "v2.1":
        stats = _numbers(found, np.arange(len(found.rows)))
        for camera in found.info.cameras:
            if (pixels := sample_pixels(found, camera.key, 4 * EPISODE_FRAMES)) is not None:
                stats[camera.source] = pixels.stats()
        return [backup.replace(STATS, json.dumps(to_json(stats), indent=4))]
    reader = Reader(found.root)
    lines = []
    for episode in reader.episodes:
        stats = _numbers(found, found.rows.of_episode(episode.index))
        picked = np.unique(np.linspace(episode.start, episode.stop - 1, EPISODE_FRAMES).astype(int))
        for key in reader.camera_keys:
            histogram = PixelHistogram()
            for image in reader.frames(key, picked):
                histogram.add(image)
            stats[reader.features[key].source] = histogram.stats()
        lines.append(json.dumps({"episode_index": episode.index, "stats": to_json(stats)}) + "\n")
    return [backup.replace("meta/episodes_stats.jsonl", "".join(lines))]
