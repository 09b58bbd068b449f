"""Whether a checkpoint fits the robot: every difference, side by side, before anything is armed.

Differs from ``ActionSpec.check_matches`` in that it looks at observations too, knows picture sizes and units, and shows
all differences at once; on an arm a near miss (degrees for radians, the other camera) is worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from robopolicy.core.errors import ActionSpaceMismatch, did_you_mean
from robopolicy.core.specs import ActionSpace, ActionSpec, FeatureKind, FeatureSpec, ObservationSpec


@dataclass(frozen=True)
class Difference:
    """One: ``what`` it is about, and what the policy and the robot say."""

    what: str
    policy: str
    robot: str

    def __str__(self) -> str:
        return f"{self.what}: policy {self.policy}, robot {self.robot}"


def feature_differences(
    wanted: ObservationSpec, offered: ObservationSpec, action: ActionSpec, space: ActionSpace, fps: float
) -> list[Difference]:
    """Every difference between what a policy was trained with (``wanted``, ``action``) and what the robot offers
    (``offered``, ``space``, ``fps`` actions a second).  Features that the robot offers beyond the wanted are no
    difference; units and names are compared where both sides state them."""
    found: list[Difference] = []
    for feature in wanted.features:
        if feature.kind in (FeatureKind.LANGUAGE, FeatureKind.GOAL):
            continue  # given by the operator, not by the robot
        if feature.key not in offered:
            hint = did_you_mean(feature.key, offered.keys).removeprefix("; ")
            found.append(Difference(feature.key, "needs it", f"does not offer it ({hint})"))
            continue
        found += _of_feature(feature, offered[feature.key])
    found += _of_action(action, space, fps)
    return found


def _of_feature(ours: FeatureSpec, theirs: FeatureSpec) -> Iterable[Difference]:
    if ours.kind is not theirs.kind:
        yield Difference(f"{ours.key} kind", ours.kind.value, theirs.kind.value)
    if ours.shape != theirs.shape:
        what = "size" if ours.kind in (FeatureKind.IMAGE, FeatureKind.DEPTH) else "shape"
        yield Difference(f"{ours.key} {what}", str(ours.shape), str(theirs.shape))
    yield from _stated(f"{ours.key} names", ours.names, theirs.names)
    yield from _stated(f"{ours.key} unit", ours.unit, theirs.unit)


def _of_action(action: ActionSpec, space: ActionSpace, fps: float) -> Iterable[Difference]:
    ours = action.space
    if ours.dim != space.dim:
        yield Difference("action dim", str(ours.dim), str(space.dim))
    elif ours.channel_kinds != space.channel_kinds:
        kinds = [", ".join(k.value for k in s.channel_kinds) for s in (ours, space)]
        yield Difference("action channel kinds", kinds[0], kinds[1])
    mode = None if ours.mode == "unstated" else ours.mode
    yield from _stated("action mode", mode, None if space.mode == "unstated" else space.mode)
    yield from _stated("action frame", ours.frame, space.frame)
    yield from _stated("action names", ours.names, space.names)
    yield from _stated("action unit", ours.unit, space.unit)
    if action.dt > 0 and abs(1 / action.dt - fps) > 1e-3 * fps:
        yield Difference("action rate", f"{1 / action.dt:g} Hz", f"{fps:g} Hz")


def _stated(what: str, ours: object, theirs: object) -> Iterable[Difference]:
    if ours and theirs and ours != theirs:
        yield Difference(what, str(ours), str(theirs))


def require_same_features(
    wanted: ObservationSpec, offered: ObservationSpec, action: ActionSpec, space: ActionSpace, fps: float
) -> None:
    """Raise ``ActionSpaceMismatch`` that shows every difference; call before arming."""
    if found := feature_differences(wanted, offered, action, space, fps):
        raise ActionSpaceMismatch("the checkpoint does not fit the robot: " + "; ".join(map(str, found)))
