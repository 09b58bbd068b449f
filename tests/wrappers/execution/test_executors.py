"""Executors: when they ask, what the policy is told, what is submitted; averages; refusals."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, InvalidChunk
from robopolicy.core.specs import ActionSpace, ActionSpec, ChannelKind
from robopolicy.wrappers.execution import MODES, ExecutionConfig, Guide, make_executor
from robopolicy.wrappers.execution.averages import Averager, Mixer, rotation_to_six
from robopolicy.wrappers.execution.executors import value_at
from robopolicy.wrappers.execution.timeline import Timeline

DT = 0.1
SPEC = ActionSpec(ActionSpace(2), horizon=9, n_obs_steps=2, n_action_steps=4, dt=DT)  # H = 8
K = ChannelKind


def chunk_at(t_ref: float, spec: ActionSpec = SPEC, value: float = 0.0) -> ActionChunk:
    """Row whose step i from the newest observation on is ``value + i``."""
    steps = value + np.arange(spec.horizon) - spec.exec_start
    return ActionChunk.stamped(np.repeat(steps[None, :, None], spec.dim, 2), spec, t_ref)


class TestWhenToAsk:
    @pytest.mark.parametrize("mode", MODES)
    def test_without_a_plan_or_at_its_end_every_mode_asks_but_never_twice_for_one_instant(self, mode):
        executor = make_executor(mode, SPEC)
        assert executor.wants(5.0, None, 0.0)
        executor.took(chunk_at(5.0), 5.0, 5.0)
        assert not executor.wants(5.0, None, 0.0)
        assert executor.wants(6.0, 6.0, 0.0)
        executor.reset()
        assert executor.wants(5.0, None, 0.0)

    @pytest.mark.parametrize(("latency", "d"), [(0.0, 0), (0.1, 1), (0.2, 2), (0.25, 3)])
    def test_async_asks_when_no_more_than_d_plus_1_steps_remain(self, latency, d):
        executor = make_executor("async", SPEC, latency=latency)
        executor.took(chunk_at(0.0), 0.0, 0.0)
        asked = [k for k in range(1, 5) if executor.wants(k * DT, 4 * DT, latency)]
        assert asked == [k for k in range(1, 5) if 4 - k <= d + 1]

    def test_a_reserve_does_not_delay_the_question(self):
        executor = make_executor("async", SPEC, latency=0.1, reach=8)
        assert executor.took(chunk_at(0.0), 0.0, 0.1).spec.horizon == 9
        assert [executor.wants(k * DT, 8 * DT, 0.1) for k in (1, 2, 3)] == [False, True, True]

    @pytest.mark.parametrize("mode", ["receding", "rtc"])
    def test_after_s_steps_of_the_newest_chunk(self, mode):
        executor = make_executor(mode, SPEC, steps=3, latency=0.1)
        executor.took(chunk_at(1.0), 1.0, 1.1)
        assert [executor.wants(1.0 + k * DT, 1.8, 0.1) for k in range(1, 5)] == [False, False, True, True]

    def test_sync_asks_at_the_end_only_and_ensemble_always(self):
        sync, ensemble = make_executor("sync", SPEC), make_executor("ensemble", SPEC)
        for executor in (sync, ensemble):
            executor.took(chunk_at(0.0), 0.0, 0.0)
        assert [sync.wants(k * DT, 4 * DT, 0.0) for k in range(1, 5)] == [False, False, False, True]
        assert all(ensemble.wants(k * DT, 8 * DT, 0.0) for k in range(1, 5))

    @pytest.mark.parametrize(
        ("mode", "latency", "want"),
        [("sync", 0.2, 6), ("receding", 0.2, 4), ("async", 0.1, 2), ("async", 0.2, 2), ("ensemble", 0.0, 1),
         ("ensemble", 0.2, 2), ("rtc", 0.2, 4)],
    )  # fmt: skip
    def test_the_interval_is_what_a_simulated_run_shows(self, mode, latency, want):
        executor = make_executor(mode, SPEC, latency=latency)
        assert executor.interval(latency) == want
        d, plan, asked, arrival = executor.delay(latency), Timeline(2, DT, 2), [], None
        for k in range(60):
            if arrival is not None and k == arrival[0]:
                sent = executor.took(chunk_at(arrival[1] * DT), arrival[1] * DT, k * DT)
                plan.merge(sent.stamps[0, 1:], sent.actions[0, 1:], k * DT)
                arrival = None
            if arrival is None and executor.wants(k * DT, plan.end, latency):
                asked.append(k)
                arrival = (k + d, k)
                if d == 0:
                    sent = executor.took(chunk_at(k * DT), k * DT, k * DT)
                    plan.merge(sent.stamps[0, 1:], sent.actions[0, 1:], k * DT)
                    arrival = None
        assert set(np.diff(asked[2:])) == {want}


class TestWhatIsSubmitted:
    def test_sync_dates_its_actions_from_the_answer_and_hands_over_s_of_them(self):
        sent = make_executor("sync", SPEC, steps=3, lead=0.05).took(chunk_at(1.0), 1.0, 1.3)
        assert sent.stamps[0, 1:].tolist() == pytest.approx([1.35, 1.45, 1.55])
        assert sent.actions[0, 1:, 0].tolist() == [0, 1, 2]

    @pytest.mark.parametrize(("mode", "count"), [("receding", 8), ("async", 4), ("ensemble", 8), ("rtc", 8)])
    def test_the_others_keep_the_dates_of_the_observation(self, mode, count):
        sent = make_executor(mode, SPEC).took(chunk_at(1.0), 1.0, 1.3)
        assert sent.stamps[0, 1:].tolist() == pytest.approx([1.0 + i * DT for i in range(count)])

    def test_one_row_of_the_announced_layout(self):
        executor = make_executor("async", SPEC)
        wide = ActionChunk.stamped(np.zeros((2, 9, 2)), SPEC)
        with pytest.raises(InvalidChunk, match="one row"):
            executor.took(wide, 0.0, 0.0)

    def test_equal_calls_give_equal_answers(self):
        runs = []
        for _ in range(2):
            executor = make_executor("ensemble", SPEC, latency=0.1)
            runs.append([executor.took(chunk_at(0.13 * k, value=k**2), 0.13 * k, 0.2 * k).actions for k in range(5)])
        assert np.array_equal(runs[0], runs[1])


class TestEnsemble:
    def test_weights_are_acts_and_the_oldest_weighs_most(self):
        executor = make_executor("ensemble", SPEC, decay=0.5)
        for k, value in enumerate((0.0, 10.0, 100.0)):
            chunk = ActionChunk.stamped(np.full((1, 9, 2), value), SPEC, k * DT)
            sent = executor.took(chunk, k * DT, k * DT)
        raw = [math.exp(-0.5 * i) for i in range(3)]
        want = (10 * raw[1] + 100 * raw[2]) / sum(raw)
        assert sent.actions[0, 1, 0] == pytest.approx(want, rel=1e-6)  # all three speak about now
        assert sent.actions[0, -1, 0] == 100.0  # only the newest reaches so far
        two = (10 * raw[0] + 100 * raw[1]) / (raw[0] + raw[1])
        assert sent.actions[0, -2, 0] == pytest.approx(two, rel=1e-6)

    def test_a_chunk_asked_between_two_instants_is_compared_where_the_old_one_would_be(self):
        executor = make_executor("ensemble", SPEC, decay=0.0)
        executor.took(chunk_at(0.0), 0.0, 0.0)
        sent = executor.took(chunk_at(0.25, value=2.5), 0.25, 0.25)  # both say: action = time / dt
        assert sent.actions[0, 1:6, 0].tolist() == pytest.approx([2.5, 3.5, 4.5, 5.5, 6.5], rel=1e-6)

    def test_rotations_in_the_tangent_space_and_switches_as_the_newest(self):
        kinds = (K.EUCLIDEAN, *[K.ROT6D] * 6, K.BINARY)
        averager = Averager(ActionSpace(8, kinds=kinds), decay=0.01)
        angles, said = (0.2, 1.0, 2.4), []
        for i, angle in enumerate(angles):
            said.append(np.concatenate(([i], rotation_to_six(Rotation.from_euler("z", angle)), [float(i == 2)])))
        mean = averager.mean(np.array(said, np.float32))
        weights = averager.weights(3)
        assert weights[0] / weights[1] == pytest.approx(math.exp(0.01))
        assert mean[0] == pytest.approx(weights @ [0, 1, 2], rel=1e-6)
        turned = rotation_to_six(Rotation.from_euler("z", weights @ angles))
        assert mean[1:7] == pytest.approx(turned, abs=1e-6)
        assert mean[7] == 1.0

    def test_rotations_must_come_in_sixes(self):
        with pytest.raises(ConfigError, match="six neighbouring"):
            Averager(ActionSpace(7, kinds=(*[K.ROT6D] * 5, K.EUCLIDEAN, K.ROT6D)), 0.01)


class TestGuide:
    def test_what_is_left_of_the_old_chunk_on_the_grid_of_the_new_one(self):
        executor = make_executor("rtc", SPEC, steps=3, latency=0.2)
        assert executor.guide(0.0) is None
        executor.took(chunk_at(0.0), 0.0, 0.0)
        assert executor.wants(0.3, 0.8, 0.2)
        guide = executor.guide(0.3)
        assert guide.delay == 2
        assert guide.previous[:6, 0].tolist() == pytest.approx([2, 3, 4, 5, 6, 7])  # one executed step before now
        assert guide.weights.tolist() == pytest.approx([1, 1, 1, 3 / 4, 2 / 4, 1 / 4, 0, 0, 0])
        executor.reset()
        assert executor.guide(0.3) is None

    def test_late_actions_of_a_chunk_are_not_what_was_executed(self):
        executor = make_executor("rtc", SPEC, steps=3, latency=0.2)
        executor.took(chunk_at(0.0), 0.0, 0.0)
        executor.took(chunk_at(0.3, value=50), 0.3, 0.5)
        past = executor.guide(0.5)
        assert past.previous[:3, 0].tolist() == [4, 52, 53]

    def test_the_newest_latency_and_the_lead_decide_what_is_frozen(self):
        executor = make_executor("rtc", SPEC, steps=4, latency=0.1, lead=0.2)
        executor.took(chunk_at(0.0), 0.0, 0.0)
        assert executor.guide(0.3).delay == 3
        executor.wants(0.3, 0.8, 0.35)
        guide = executor.guide(0.3)
        assert guide.delay == 5  # no more than there is, though 6 were needed
        assert guide.weights.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]

    def test_between_two_instants_the_plan_is_interpolated(self):
        executor = make_executor("rtc", SPEC)
        executor.took(chunk_at(0.0), 0.0, 0.0)
        assert executor.guide(0.35).previous[:5, 0].tolist() == pytest.approx([2.5, 3.5, 4.5, 5.5, 6.5])

    def test_impossible_guides(self):
        with pytest.raises(InvalidChunk, match="weights"):
            Guide(np.zeros((4, 2), np.float32), np.zeros(3, np.float32))
        with pytest.raises(InvalidChunk, match=r"within \[0, 1\]"):
            Guide(np.zeros((4, 2), np.float32), np.full(4, 1.5, np.float32))
        assert Guide(np.zeros((4, 2), np.float32), np.zeros(4, np.float32)).empty


class TestRefusals:
    @pytest.mark.parametrize("d", range(6))
    @pytest.mark.parametrize("s", range(1, 9))
    def test_rtc_needs_d_le_s_le_h_minus_d(self, d, s):
        if d <= s <= 8 - d:
            make_executor("rtc", SPEC, steps=s, latency=d * DT)
        else:
            with pytest.raises(ConfigError, match=rf"d = {d} .*s = {s}, H = 8, so {d} <= {s} <= {8 - d} does not"):
                make_executor("rtc", SPEC, steps=s, latency=d * DT)

    def test_measured_latency_is_checked_again(self):
        executor = make_executor("rtc", SPEC, steps=4, latency=0.1)
        with pytest.raises(ConfigError, match="d = 5"):
            executor.check(0.45)

    @pytest.mark.parametrize(
        ("mode", "options", "words"),
        [
            ("async", {"latency": 0.4}, "all would be late"),
            ("receding", {"steps": 9}, "reach <= 8"),
            ("receding", {"steps": 4, "reach": 3}, "steps=4 and reach=3"),
            ("later", {}, "mode"),
            ("rtc", {"schedul": "exp"}, "did you mean 'schedule'"),
            ("rtc", {"latency": -1}, "latency"),
        ],
    )
    def test_impossible_options(self, mode, options, words):
        with pytest.raises(ConfigError, match=words):
            make_executor(mode, SPEC, **options)

    def test_keyposes_have_no_dates(self):
        with pytest.raises(ConfigError, match="keyposes"):
            make_executor("async", ActionSpec(ActionSpace(2), 8, 1, 4, 0.0))

    def test_a_config_goes_in_as_it_is_or_changed(self):
        config = ExecutionConfig(mode="rtc", steps=3)
        assert make_executor(config, SPEC).steps == 3
        assert make_executor(config, SPEC, steps=4).steps == 4
        assert make_executor("rtc", SPEC).steps == 4  # half of H, no more than n_action_steps


class TestTimeline:
    def test_late_actions_are_dropped_and_the_old_ones_go_on(self):
        plan = Timeline(1, DT, kept=2)
        assert plan.end is None
        assert plan.at(0.0) is None
        plan.merge(np.arange(5) * DT, np.arange(5.0)[:, None], 0.0, 1)
        assert plan.merge(np.array([0.0, 0.1]), np.zeros((2, 1)), 0.2, 2) == 2  # all late: nothing changes
        assert plan.end == pytest.approx(0.5)
        assert plan.merge((1 + np.arange(5)) * DT, 10.0 + np.arange(5)[:, None], 0.3, 3) == 2
        assert plan.actions[:, 0].tolist() == [1, 2, 12, 13, 14]
        assert plan.chunks.tolist() == [1, 1, 3, 3, 3]
        assert plan.at(0.31) == 2
        assert plan.at(0.7) is None

    def test_values_beyond_the_plan_are_unknown(self):
        stamps, values = np.array([1.0, 1.1]), np.array([[0.0], [1.0]])
        mixer = Mixer(ActionSpace(1))
        assert value_at(stamps, values, 0.99, DT, mixer) is None
        assert value_at(stamps, values, 1.025, DT, mixer)[0] == pytest.approx(0.25)
        assert value_at(stamps, values, 1.2, DT, mixer) is None


def test_executors_need_no_torch():
    code = "import sys, robopolicy.wrappers.execution; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
