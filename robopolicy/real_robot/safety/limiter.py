"""Stage 5: speed, acceleration and jerk of the setpoint, so that it can always stop inside the workspace and the lead
cap.

Each tick proposes one step towards the target, and takes it only if the stop that would follow it stays inside; else it
takes the next step of the stop that was found safe a tick earlier.  So a safe stop is known at every tick, from the
first, at rest, on: no fight between the limits is possible, and a projection never has to break the acceleration limit.
Source: the idea is that of a safe back-up trajectory (for example Bouraine et al. 2012, passive motion safety).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.lead import SOFT, Lead
from robopolicy.real_robot.safety.motion import Rates, braked, slow_enough, stop, towards
from robopolicy.real_robot.safety.types import SafetyFlag
from robopolicy.real_robot.safety.validity import Sample, Wish
from robopolicy.real_robot.safety.vectors import (
    ZERO,
    Quaternion,
    Vector,
    along,
    angle,
    capped,
    difference,
    length,
    minus,
    times,
    turned,
)
from robopolicy.real_robot.safety.workspace import Workspace

CRUISE = 0.995  # of the speed limit: what the limiter aims at
TINY = 1e-9
OUTSIDE = 1e-6  # m that a published pose may be outside the workspace


@dataclass(frozen=True)
class Body:
    """The moving setpoint: pose, velocity (m/s), acceleration, and the same for rotation (rad/s, base frame)."""

    position: Vector
    quaternion: Quaternion
    velocity: Vector = ZERO
    acceleration: Vector = ZERO
    turning: Vector = ZERO
    twisting: Vector = ZERO

    def pose(self) -> Pose:
        """The pose as arrays."""
        return Pose(np.array(self.position), np.array(self.quaternion))

    def rate(self) -> np.ndarray:
        """``(6,)``: m/s, then rad/s."""
        return np.array((*self.velocity, *self.turning))

    @property
    def at_rest(self) -> bool:
        """Whether nothing of it moves."""
        return self.velocity == self.acceleration == self.turning == self.twisting == ZERO


@dataclass(frozen=True)
class Walls:
    """What surrounds the setpoint at one tick; a stage that was taken out is ``None``.  ``width``: of the fingers,
    m."""

    workspace: Workspace | None
    lead: Lead | None
    sample: Sample
    width: float


class Limiter:
    """Moves a ``Body`` tick by tick."""

    def __init__(self, limits: SafetyLimits, tick: float) -> None:
        self.straight = Rates(limits.speed, limits.acceleration, limits.jerk_time, tick)
        self.round = Rates(limits.turn_speed, limits.turn_acceleration, limits.jerk_time, tick)
        self._tick = tick

    def step(
        self, body: Body, wish: Wish | None, left: tuple[float, float], scale: float, walls: Walls
    ) -> tuple[Body, SafetyFlag]:
        """One tick towards ``wish`` (``None``: towards rest), at ``scale`` times the speed limits.

        ``left``: metres and radians from the wish to the end of the plan, see ``Setpoint``.
        """
        still = self._moved(body, braked(body.velocity, body.acceleration, self.straight), None)
        still = self._moved(still, None, braked(body.turning, body.twisting, self.round))
        if wish is None:
            return still, SafetyFlag.NONE
        go, flags = self._wished(body, wish, left, scale, walls)
        turn, more = self._wished_turn(body, wish, left, scale, walls)
        flags |= more
        moved = self._moved(body, towards(body.velocity, body.acceleration, go, self.straight), None)
        moved = self._moved(moved, None, towards(body.turning, body.twisting, turn, self.round))
        way = _Way(moved, self.straight, self.round)
        if not self._place_safe(body, way, walls):
            way = _Way(_mixed(still, moved), self.straight, self.round)
            flags |= SafetyFlag.SPEED
        if not self._turn_safe(body, way, walls):
            way = _Way(_mixed(way.body, still), self.straight, self.round)
            flags |= SafetyFlag.SPEED
        if not self._tips_safe(body, way, walls):
            return still, flags | SafetyFlag.WORKSPACE
        return way.body, flags

    def _moved(self, body: Body, straight: tuple[Vector, Vector] | None, turn: tuple[Vector, Vector] | None) -> Body:
        position, velocity, acceleration = body.position, body.velocity, body.acceleration
        q, turning, twisting = body.quaternion, body.turning, body.twisting
        if straight is not None:
            velocity, acceleration = straight
            position = along(position, velocity, self._tick)
        if turn is not None:
            turning, twisting = turn
            q = turned(q, times(turning, self._tick)) if turning != ZERO else q
        return Body(position, q, velocity, acceleration, turning, twisting)

    def _wished(
        self, body: Body, wish: Wish, left: tuple[float, float], scale: float, walls: Walls
    ) -> tuple[Vector, SafetyFlag]:
        """Velocity to aim at: the target's own plus a share of the distance, within everything that must be slowed
        for."""
        rates, error, flags = self.straight, minus(wish.position, body.position), SafetyFlag.NONE
        # The step to be taken leads to where the target is now: its own motion of one tick is no error.
        raw = along(times(wish.velocity, 1 - rates.pull * self._tick), error, rates.pull)
        most = min(CRUISE * rates.speed * scale, rates.approach(left[0] + length(error)))
        if length(raw) > most:
            flags |= SafetyFlag.SPEED
        aim = capped(raw, most)
        size = length(aim)
        if walls.lead is not None and size > TINY:
            room = rates.approach(walls.lead.room(body.position, times(aim, 1 / size), walls.sample.position))
            if room < size:
                aim, flags = capped(aim, room), flags | SafetyFlag.LEAD
        return aim, flags

    def _wished_turn(
        self, body: Body, wish: Wish, left: tuple[float, float], scale: float, walls: Walls
    ) -> tuple[Vector, SafetyFlag]:
        rates, error, flags = self.round, difference(body.quaternion, wish.quaternion), SafetyFlag.NONE
        raw = along(times(wish.turning, 1 - rates.pull * self._tick), error, rates.pull)
        most = min(CRUISE * rates.speed * scale, rates.approach(left[1] + length(error)))
        if length(raw) > most:
            flags |= SafetyFlag.SPEED
        aim = capped(raw, most)
        size = length(aim)
        if walls.lead is not None and size > TINY:
            room = rates.approach(walls.lead.turn_room(body.quaternion, times(aim, 1 / size), walls.sample.quaternion))
            if room < size:
                aim, flags = capped(aim, room), flags | SafetyFlag.LEAD
        return aim, flags

    def _place_safe(self, before: Body, way: _Way, walls: Walls) -> bool:
        body, lead, space = way.body, walls.lead, walls.workspace
        if not slow_enough(body.velocity, body.acceleration, way.velocities, self.straight):
            return False
        centre = walls.sample.position
        if lead is not None:
            # Where a limit is broken already (the arm was moved), a step must not make it worse.
            most = max(SOFT * lead.most, length(minus(before.position, centre))) + TINY
            near = length(minus(body.position, centre)) + way.reach <= most
            if not near and any(length(minus(p, centre)) > most for p in way.positions):
                return False
        if space is not None:
            most = max(0.0, space.excess_of_point(before.position))
            near = space.excess_of_point(body.position) + way.reach <= most
            if not near and any(space.excess_of_point(p) > most for p in way.positions):
                return False
        return True

    def _turn_safe(self, before: Body, way: _Way, walls: Walls) -> bool:
        body = way.body
        if not slow_enough(body.turning, body.twisting, way.turnings, self.round):
            return False
        if walls.lead is None:
            return True
        centre = walls.sample.quaternion
        most = max(SOFT * walls.lead.most_turn, angle(centre, before.quaternion)) + TINY
        if angle(centre, body.quaternion) + way.turn_reach <= most:
            return True
        return all(angle(centre, q) <= most for q in way.quaternions)

    def _tips_safe(self, before: Body, way: _Way, walls: Walls) -> bool:
        space, body = walls.workspace, way.body
        if space is None:
            return True
        width = walls.width
        most = max(0.0, space.excess_of_tips(before.position, before.quaternion, width))
        if space.lowest(width) + way.reach <= body.position[2] + most:
            return True
        places, turns = way.positions, way.quaternions
        ticks = max(len(places), len(turns))
        return all(
            space.excess_of_tips(places[min(k, len(places) - 1)], turns[min(k, len(turns) - 1)], width) <= most
            for k in range(ticks)
        )


class _Way:
    """A step and the stop after it, computed as far as it is asked for."""

    def __init__(self, body: Body, straight: Rates, round_: Rates) -> None:
        self.body, self._straight, self._round = body, straight, round_
        self.reach = straight.reach(length(body.velocity), length(body.acceleration))
        self.turn_reach = round_.reach(length(body.turning), length(body.twisting))
        self._velocities: list[Vector] | None = None
        self._turnings: list[Vector] | None = None
        self._positions: list[Vector] | None = None
        self._quaternions: list[Quaternion] | None = None

    def velocities(self) -> list[Vector]:
        """Of the stop, tick by tick, down to zero."""
        if self._velocities is None:
            self._velocities = stop(self.body.velocity, self.body.acceleration, self._straight)
        return self._velocities

    def turnings(self) -> list[Vector]:
        """Of the stop's rotation, likewise."""
        if self._turnings is None:
            self._turnings = stop(self.body.turning, self.body.twisting, self._round)
        return self._turnings

    @property
    def positions(self) -> list[Vector]:
        """After the step, then of the stop."""
        if self._positions is None:
            at = self.body.position
            self._positions = [at]
            for velocity in self.velocities():
                at = along(at, velocity, self._straight.tick)
                self._positions.append(at)
        return self._positions

    @property
    def quaternions(self) -> list[Quaternion]:
        """After the step, then of the stop."""
        if self._quaternions is None:
            at = self.body.quaternion
            self._quaternions = [at]
            for turning in self.turnings():
                at = turned(at, times(turning, self._round.tick)) if turning != ZERO else at
                self._quaternions.append(at)
        return self._quaternions


def settled(body: Body, walls: Walls) -> Body:
    """A stop target or a dragged setpoint may lie outside the workspace: at rest at a near place inside, if the lead
    cap lets it; else the body as it is."""
    space, lead, sample = walls.workspace, walls.lead, walls.sample
    if space is None or space.excess(body.position, body.quaternion, walls.width) <= OUTSIDE:
        return body
    for start in (body.position, sample.position):
        place = space.project(start, body.quaternion, walls.width)
        if lead is None or lead.fits(place, body.quaternion, sample.position, sample.quaternion):
            return Body(place, body.quaternion)
    return body


def _mixed(place: Body, turn: Body) -> Body:
    """The position's motion of one body with the rotation's of another."""
    return Body(place.position, turn.quaternion, place.velocity, place.acceleration, turn.turning, turn.twisting)
