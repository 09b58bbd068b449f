"""``metrics.jsonl``: one JSON object a line, ``{"step": 100, "kind": "train" | "val" | "eval", <scalars>}``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.core.io import write_atomic

NAME = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics file; a line cut off by a crash is left out."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


class MetricsFile:
    """Appends records; opening it for a resumed run drops those after ``keep_until`` (they will be made again).

    ``records``: keep so many of the first instead, where steps do not tell; ``count`` says how many there are.
    """

    def __init__(self, run: Path, keep_until: int, records: int | None = None) -> None:
        self.path = Path(run) / NAME
        found = read_metrics(self.path)
        kept = found[:records] if records is not None else [r for r in found if r["step"] <= keep_until]
        self.count = len(kept)
        write_atomic(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = open(self.path, "a")  # noqa: SIM115 - closed by close(), kept open between records

    def log(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Write one record; non-finite values become null, because JSON has none."""
        clean = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **clean}) + "\n")
        self._file.flush()
        self.count += 1

    def close(self) -> None:
        self._file.close()
