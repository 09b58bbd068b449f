"""Energy as a warning: ranking, thresholds from held-out episodes, records and report."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, InvalidChunk
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.evaluation.report import write_report
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.uncertainty import auroc, calibrate, judge, scores_of, success_of_certain
from robopolicy.testing.policies import CoinPolicy, GoalPolicy


class TestAuroc:
    def test_known_values(self):
        assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1.0
        assert auroc([1, 2, 3, 4], [True, True, False, False]) == 0.0
        assert auroc([1, 1, 1], [True, False, False]) == 0.5
        assert auroc([1, 2, 3, 4], [False, True, False, True]) == 0.75
        assert np.isnan(auroc([1, 2], [True, True]))

    def test_is_the_share_of_ordered_pairs(self):
        rng = np.random.default_rng(0)
        scores, failed = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
        pairs = [(b > g) + 0.5 * (b == g) for b in scores[failed] for g in scores[~failed]]
        assert auroc(scores, failed) == pytest.approx(np.mean(pairs))


class TestThreshold:
    def test_false_alarms_stay_below_the_wish(self):
        rng = np.random.default_rng(1)
        failed = rng.random(400) < 0.3
        scores = rng.normal(size=400) + 2.0 * failed
        made = calibrate(scores[:200], failed[:200], 0.1)
        assert made.false_alarms <= 0.1
        assert made.false_alarms > 0.07  # not stricter than asked
        seen = judge(scores[200:], failed[200:], made.threshold)
        assert seen.caught > 0.6
        assert seen.false_alarms < 0.2
        assert seen.n == 200

    def test_zero_false_alarms_is_the_largest_success(self):
        assert calibrate([1.0, 5.0, 3.0], [False, True, False], 0.0).threshold == 3.0

    def test_refusals(self):
        with pytest.raises(ConfigError, match="successful"):
            calibrate([1.0], [True])
        with pytest.raises(ConfigError, match="finite"):
            calibrate([np.nan], [False])
        with pytest.raises(ConfigError, match="false_alarms"):
            calibrate([1.0], [False], 1.0)

    def test_selective_success(self):
        kept, rate = success_of_certain([3.0, 1.0, 2.0], [True, False, False])
        assert kept == pytest.approx([1 / 3, 2 / 3, 1])
        assert rate == pytest.approx([1, 1, 2 / 3])


class Telling(CoinPolicy):
    """Tells the number of its call within the batch's own episodes as energy: chunk numbers 0, 1, 2, ..."""

    def act(self, obs, noise_keys=None, observed_at=0.0):
        chunk = super().act(obs, noise_keys, observed_at)
        return dataclasses.replace(chunk, info={"energy": np.array([float(key[2]) for key in noise_keys])})


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> tuple[EvaluationRecord, object]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    env = {"name": "point_reach", "kwargs": {"max_steps": 20}}
    out = folder / "eval" / "final"
    return evaluate(Telling.for_point_reach(), env, 12, workers=0, out=out, progress=False), folder


class TestRecord:
    def test_episode_means_of_chunk_info(self, record):
        for e in record[0].episodes:
            assert e.info == {"energy": pytest.approx((e.chunks - 1) / 2)}

    def test_round_trip_and_old_records(self, record, tmp_path):
        path = record[0].save(tmp_path / "record.json")
        assert EvaluationRecord.load(path) == record[0]
        data = json.loads(path.read_text())
        assert data["totals"]["info"]["energy"]["n"] == 12
        for e in data["episodes"]:
            del e["info"]
        path.write_text(json.dumps(data))
        old = EvaluationRecord.load(path)
        assert old.info == {}
        with pytest.raises(ConfigError, match="no 'energy'"):
            scores_of(old)

    def test_policies_without_info(self):
        record = evaluate(GoalPolicy.for_point_reach(), "point_reach", 2, workers=0, progress=False)
        assert record.info == {}

    def test_report_shows_it(self, record):
        page = write_report(record[1]).read_text()
        assert "Success of the most certain episodes" in page
        assert "mean energy" in page


def test_chunk_info_has_one_number_a_row():
    policy = Telling.for_point_reach()
    chunk = policy.act({k: np.zeros((2, 1, 2)) for k in policy.observation_spec.keys}, [(0, 0, 0), (0, 1, 0)])
    with pytest.raises(InvalidChunk, match="info 'energy'"):
        dataclasses.replace(chunk, info={"energy": np.zeros(3)})
