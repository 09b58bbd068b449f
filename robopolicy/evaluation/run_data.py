"""What a report shows, collected from a run directory; every part is optional, damaged parts are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robopolicy.core.errors import ConfigError
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.training.metrics import NAME, read_metrics


@dataclass(frozen=True)
class Evaluation:
    """A record and where it lies."""

    file: Path
    record: EvaluationRecord

    @property
    def films(self) -> list[Path]:
        """Films that exist, the grid first."""
        listed = [self.file.parent / v for v in self.record.videos]
        grid = self.file.with_suffix("") / "grid.mp4"
        return [p for p in [grid, *listed] if p.is_file()]


@dataclass(frozen=True)
class RunData:
    """A run: its metrics by kind, evaluations in the order they were made, configuration."""

    name: str
    metrics: dict[str, list[dict[str, Any]]]
    evaluations: list[Evaluation]
    config_text: str
    config: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Steps and finite values of one scalar."""
        rows = [(r["step"], r[key]) for r in self.metrics.get(kind, ()) if isinstance(r.get(key), (int, float))]
        return [float(s) for s, _ in rows], [float(v) for _, v in rows]

    def last(self, kind: str, key: str) -> float | None:
        """Newest value of one scalar."""
        values = self.series(kind, key)[1]
        return values[-1] if values else None

    def periodic(self) -> list[EvaluationRecord]:
        """Evaluations of the same episodes at different steps (the largest such group), in the order of the steps."""
        groups: dict[tuple[str, int, int], dict[int, EvaluationRecord]] = {}
        for r in (e.record for e in self.evaluations):
            if r.step is not None and r.scored:
                groups.setdefault((str(r.env), r.base_seed, len(r.episodes)), {})[r.step] = r
        largest = max(groups.values(), key=len, default={})
        return [largest[step] for step in sorted(largest)]

    @property
    def headline(self) -> Evaluation | None:
        """The evaluation that counts: without injected latency, the most episodes, then the newest."""
        if not self.evaluations:
            return None

        def rank(e: Evaluation) -> tuple[bool, int, str, int]:
            return not e.record.execution, len(e.record.scored), e.record.created, e.record.step or 0

        return max(self.evaluations, key=rank)


def read_run(run_dir: str | Path) -> RunData:
    """Read a run directory.

    Raises:
        ConfigError: there is neither ``metrics.jsonl`` nor an evaluation record.
    """
    run = Path(run_dir)
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in read_metrics(run / NAME):
        metrics.setdefault(str(row.get("kind", "train")), []).append(row)
    evaluations, problems = [], []
    for file in sorted((run / "eval").glob("**/*.json")):
        try:
            evaluations.append(Evaluation(file, EvaluationRecord.load(file)))
        except ConfigError as e:
            problems.append(str(e))
    if not metrics and not evaluations:
        raise ConfigError(f"{run}: nothing to report; expected {NAME} or eval/*.json of a training run")
    evaluations.sort(key=lambda e: (e.record.step if e.record.step is not None else 1 << 62, e.record.created))
    config_file = run / "config.yaml"
    text = config_file.read_text() if config_file.is_file() else ""
    config = yaml.safe_load(text) or {}
    return RunData(run.resolve().name, metrics, evaluations, text, config if isinstance(config, dict) else {}, problems)
