"""``Recorder``: a run on the arm as a LeRobot v3 dataset, seen from outside the driver.

Frames lie on a fixed grid of the dataset's rate.  Frame k holds the newest observation at or before its grid time, the
policy's (or the human's) action that is due ``follows`` later (one frame, as in simulated demonstrations, unless told
otherwise), and what the safety filter made of it; a LeRobot dataset has no place for true times, so they are columns of
their own.  Every episode has a JSON sidecar with what else is known.  An episode that the driver stops (fault, stop,
lost link), or whose observations fail for longer than ``gap``, ends there and is marked.

    with Recorder(driver, "out/lift", fps=10, features=features, latency=config.arm_latency) as recorder:
        recorder.begin("lift the cube")
        ...                      # recorder.tick() at 50 Hz or more; recorder.submit(chunk) instead of driver.submit
        recorder.end(success=True)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from robopolicy.core.errors import ConfigError, DatasetError, RequestRefused
from robopolicy.core.specs import TIME, to_dict
from robopolicy.datasets import layout_v3 as v3
from robopolicy.datasets.writer import Writer
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.control.plan import ARM_LATENCY, GRIPPER_LATENCY, Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Driver
from robopolicy.real_robot.recording.episode import Take, closing
from robopolicy.real_robot.recording.features import Recordable, emitted_numbers, extra_columns
from robopolicy.real_robot.recording.sights import TINY, Sights
from robopolicy.real_robot.recording.spool import Close, FrameToWrite, Spool
from robopolicy.real_robot.recording.timeline import Timeline, Wanted
from robopolicy.real_robot.safety.types import Setpoint
from robopolicy.sim.panda_model import WIDTH_MAX

GAP, LOST = 0.5, 2.0  # s and frames without an observation, the longer of which ends an episode
SETTLE = 0.15  # s after its grid time that a frame is written: pictures arrive late
WAITING = 20.0  # s of frames that may wait for the encoder
Mode = Literal["all", "corrections"]
OVER = (State.OFF, State.LINKED, State.READY, State.FAULT, State.ESTOP)


class Recorder:
    """See the module.

    Args:
        driver: any ``Driver``; only ``status`` and ``snapshot`` are asked.
        root: of the dataset; one of this recorder, with the same rate and features, is continued.
        fps: frames a second.
        features: what a frame holds.
        latency, gripper_latency: of arm and hand, s, as the driver has them.
        follows: s from a frame's grid time to when its action is due, a frame unless given; for runs of a policy its
            own (``Adapter.follows``), so that a frame holds what the policy says first when it sees that frame.
        gap: s without an observation that end an episode; unless given half a second, or two frames if that is longer.
        mode: ``"all"`` frames, or ``"corrections"``: only those of a human, each intervention an episode.
        facts: for the sidecars (configuration, checkpoint and their hashes, limits, seeds, operator).
        image_storage, video_codec, robot_type: see ``Writer``.

    ``ended`` tells why recording ended early (full disk, slow encoder); the run goes on without it.  ``kept``: episodes
    handed over to be kept; ``marks``: why episodes ended early, those with nothing in them too.
    """

    def __init__(
        self,
        driver: Driver,
        root: str | Path,
        fps: float,
        features: Recordable,
        *,
        latency: float = ARM_LATENCY,
        gripper_latency: float = GRIPPER_LATENCY,
        follows: float | None = None,
        gap: float | None = None,
        mode: Mode = "all",
        facts: Mapping[str, Any] | None = None,
        image_storage: Literal["video", "png"] = "video",
        video_codec: str | None = None,
        robot_type: str = "franka",
    ) -> None:
        self.driver, self.root, self.fps, self.features, self.mode = driver, Path(root), fps, features, mode
        self.dt = dt = 1.0 / fps
        self.facts, self.follows = dict(facts or {}), dt if follows is None else follows
        self.gap = max(GAP, LOST * dt) if gap is None else gap
        if not self.gap >= dt:
            raise ConfigError(f"record: gap of {self.gap:g} s, expected a frame ({dt:g} s) or more")
        self.timeline = Timeline(latency, gripper_latency)
        self._settle = max(SETTLE, self.follows - latency)  # a human's action is made until then
        self._cameras = [f.key.rpartition(".")[2] for f in features.observation_spec.features if len(f.shape) == 3]
        self._storage: tuple[str, Literal["video", "png"], str | None] = (robot_type, image_storage, video_codec)
        self._spool = Spool(self._open, features, max(10, round(WAITING * fps)))
        self._take: Take | None = None
        self._sights = Sights(driver)
        self.marks: list[str] = []
        self.kept = 0

    def _open(self) -> Writer:
        extra = extra_columns(self._cameras)
        spec, space = self.features.observation_spec, self.features.action_space
        if not (self.root / v3.INFO).is_file():
            return Writer(self.root, self.fps, spec, space, extra, *self._storage, {"recorder": "real_robot"})
        writer = Writer.resume(self.root)
        wanted = (self.fps, to_dict(spec), to_dict(space))
        if (float(writer.info["fps"]), to_dict(writer.observation_spec), to_dict(writer.action_space)) != wanted:
            raise DatasetError(
                f"{self.root}: was recorded at another rate or with other features; choose another folder"
            )
        if set(writer.info["robopolicy"]["extras"]) != set(extra):
            raise DatasetError(f"{self.root}: was not recorded by this recorder; choose another folder")
        return writer

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> str:
        """Why recording ended early; empty while all is well."""
        return self._spool.ended

    @property
    def episodes(self) -> int:
        """Closed episodes of the dataset, durable ones."""
        return self._spool.closed

    @property
    def recording(self) -> bool:
        """Whether an episode is under way."""
        return self._take is not None

    @property
    def frames(self) -> int:
        """Frames of the episode under way."""
        return self._take.frames if self._take is not None else 0

    # -- what happens --------------------------------------------------------------------------------------------------

    def submit(self, chunk: Waypoints) -> bool:
        """``Driver.submit``, remembered."""
        taken = self.driver.submit(chunk)
        if taken:
            self.timeline.chunk(chunk, self.driver.clock.now())
        return taken

    def wished(self, setpoint: Setpoint, made: float) -> None:
        """A human's wish that was given to the driver."""
        self.timeline.wish(setpoint, made)

    def note(self, name: str, **facts: Any) -> None:
        """An event for the sidecar."""
        if self._take is not None:
            self._take.events.append({"at": self.driver.clock.now() - self._take.begun, "event": name, **facts})

    def begin(self, task: str, **facts: Any) -> None:
        """Begin an episode with the next observation; raises ``RequestRefused`` while one is under way."""
        if self._take is not None:
            raise RequestRefused("record: an episode is under way; end or discard it first")
        self._take = Take(task, self.driver.clock.now(), self.driver.clock.wall(), facts)
        self._sights = Sights(self.driver)

    def end(self, success: bool | None = None, why: str = "") -> bool:
        """End the episode; false if there was none, or nothing in it.  ``why`` marks one that ended early."""
        take = self._take
        if take is None:
            return False
        self._write_due(take, self.driver.clock.now(), wait=False)
        if self._take is None:  # what was left ended it
            return True
        return self._close(success, why)

    def discard(self) -> None:
        """Throw the episode away."""
        if self._take is not None:
            self._take = None
            self._spool.put(Close(False))

    def tick(self) -> None:
        """Look at the driver and write what is due; call it at 50 Hz or more, recording or not."""
        status = self.driver.status()
        before = self.timeline.emitted(status.now)
        self.timeline.look(status)
        if self._take is None or self.ended:
            return
        if before is not None and before.state is not status.state:
            self.note("state", state=status.state.value, why=status.why)
        self._sights.look(status.now)
        self._write_due(self._take, status.now, wait=True)
        if self._take is not None and status.state in OVER:
            self._write_due(self._take, status.now, wait=False)
            self._mark(f"{status.state.value}: {status.why}")

    # -- frames --------------------------------------------------------------------------------------------------------

    def _write_due(self, take: Take, now: float, wait: bool) -> None:
        """Write the frames whose data must have arrived; without ``wait``, those whose data are there."""
        if take.first is None:
            fresh, since = self._sights.since(take.begun - self.dt), self.timeline.since
            if fresh is None or since is None:
                self._sights.forget(now - self._settle - self.gap)
                return
            # A little after, so that the time at which its action was sent is not rounded to before the first look.
            take.first = max(fresh.time, take.begun, since + self.timeline.latency - self.follows + TINY)
        settle = self._settle if wait else 0.0
        while self._take is take and take.first + take.frames * self.dt + settle <= now:
            self._write(take, take.first + take.frames * self.dt)
        self._sights.forget(take.first + take.frames * self.dt)

    def _write(self, take: Take, grid: float) -> None:
        snapshot = self._sights.at(grid)
        due = grid + self.follows
        wanted = self.timeline.wanted(due)
        if snapshot is None or grid - snapshot.time > self.gap:
            age = f"the newest is {grid - snapshot.time:.2f} s old" if snapshot is not None else "there is none"
            self._mark(f"frames lost: no observation for {self.gap:g} s, {age}")
            return
        if wanted is None:
            self._mark("no pose could be emitted within the limits")
            return
        take.repeated += snapshot.time == take.last
        take.last = snapshot.time
        take.frames += 1
        if self.mode == "corrections" and not wanted.human:
            self._close_correction(take)
            return
        if not take.written:
            take.origin = grid
        take.interventions += wanted.human
        take.written += 1
        extra = self._extra(take, snapshot, wanted, due - self.timeline.latency)
        self._spool.put(FrameToWrite(snapshot, self._action(wanted, due), take.task, extra))

    def _action(self, wanted: Wanted, due: float) -> Any:
        """The wanted pose as the policy's numbers; for changes, from where the tool was wanted a frame before."""
        before = self.timeline.wanted(due - self.dt) or wanted
        width = wanted.width if wanted.width is not None else self._hand(wanted.time)
        return self.features.action(wanted.pose, width, before.pose)

    def _hand(self, due: float) -> float:
        """Opening that the hand was asked for; without any request the hand is open."""
        look = self.timeline.emitted(due - self.timeline.latency)
        return look.width if look is not None and look.width is not None else WIDTH_MAX

    def _extra(self, take: Take, snapshot: Snapshot, wanted: Wanted, sent: float) -> dict[str, Any]:
        look = self.timeline.emitted(sent)
        assert look is not None
        assert look.emitted is not None
        return {
            TIME + "state": snapshot.time - take.origin,
            **{TIME + name: snapshot.frames[name][-1].time - take.origin for name in self._cameras},
            "action.time": wanted.time - take.origin,
            "action.emitted": emitted_numbers(look.emitted, look.width),
            "meta.safety_flags": int(self.timeline.flags(sent - self.dt, sent)),
            "meta.chunk_id": wanted.chunk,
            "meta.chunk_step": wanted.step,
            "intervention": wanted.human,
        }

    # -- the end of an episode -----------------------------------------------------------------------------------------

    def _mark(self, why: str) -> None:
        self.marks.append(why)
        self._close(False, why)

    def _close(self, success: bool | None, why: str) -> bool:
        take, self._take = self._take, None
        if take is None or not take.written:
            self._spool.put(Close(False))
            return False
        self._spool.put(self._closing(take, success, why))
        return True

    def _close_correction(self, take: Take) -> None:
        """A human let go: what he showed is an episode of its own, and the watch for the next goes on."""
        if take.written:
            self._spool.put(self._closing(take, None, ""))
            take.written = take.repeated = take.interventions = 0
            take.events = []

    def _closing(self, take: Take, success: bool | None, why: str) -> Close:
        latency = {"arm": self.timeline.latency, "gripper": self.timeline.gripper_latency, "follows": self.follows}
        known: dict[str, Any] = {"mode": self.mode, "fps": self.fps, "gap": self.gap, "seen_late": self._sights.missed}
        known |= {"latency": latency, "facts": self.facts | take.facts}
        self.kept += 1
        return closing(take, success, why, known, self.driver.status())

    # -- the end -------------------------------------------------------------------------------------------------------

    def flush(self, seconds: float = 60.0) -> bool:
        """Wait until everything so far is on disk; false if it took longer, or recording ended."""
        return self._spool.wait(seconds)

    def close(self) -> None:
        """Drop an episode under way, finish and complete the dataset."""
        self.discard()
        self._spool.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
