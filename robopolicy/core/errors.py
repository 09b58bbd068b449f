"""Every error the framework raises on purpose, in one place.

A message says what was expected, what came, which key or file, and how to mend it, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobopolicyError(Exception):
    """Root of all errors raised on purpose; the command line prints them as one line, exit code 2."""


class ConfigError(RobopolicyError, ValueError):
    """A configuration has an unknown key, a wrong type, or values that contradict each other."""


class InvalidObservation(RobopolicyError, ValueError):
    """An observation does not match the policy's ``ObservationSpec`` (key, shape, dtype, range, NaN)."""


class InvalidAction(RobopolicyError, ValueError):
    """An action does not match the ``ActionSpace`` (shape, dtype, non-finite)."""


class InvalidChunk(RobopolicyError, ValueError):
    """A chunk's shape, slice or time stamps are inconsistent."""


class DatasetError(RobopolicyError):
    """A dataset is missing, incomplete or corrupt; the message names the file or the episode."""


class CheckpointError(RobopolicyError):
    """A checkpoint is missing, incomplete, corrupt, or of another model."""


class EnvUnavailable(RobopolicyError):
    """A simulator cannot run on this machine; the message carries the one command that mends it."""


class RequestRefused(RobopolicyError):
    """An operator's request that the present state of the robot's driver does not allow; the message says what does."""


class NonFiniteLoss(RobopolicyError):
    """Training met a non-finite loss or gradient; the message names the samples."""


class PolicyInterfaceError(RobopolicyError, ValueError):
    """A combination of policies, wrappers and critics that has no meaning."""


class MissingCapability(PolicyInterfaceError):
    """A wrapper needs a capability that the policy does not have."""


class ActionSpaceMismatch(PolicyInterfaceError):
    """Two parties disagree about dimension, channel kinds, mode, frame or rate."""


class NormalizerMismatch(PolicyInterfaceError):
    """Two policies' normaliser scales differ: isotropic noise in one is anisotropic in the other."""


class HorizonMismatch(PolicyInterfaceError):
    """Chunk lengths or start offsets cannot be aligned."""


class IncompatibleNoiseLevel(PolicyInterfaceError):
    """No admissible time of a path has the requested noise ratio kappa."""


class NonConvexWeights(PolicyInterfaceError):
    """Weights of a convex composition are negative or do not sum to one."""


class NonDeterministicDecoder(PolicyInterfaceError):
    """``decode`` is not a function of (observation, latent): a stochastic sampler without a tape."""


class DegenerateCandidates(PolicyInterfaceError):
    """All candidates coincide, so choosing among them does nothing."""


class MissingRewards(PolicyInterfaceError):
    """A critic needs rewards or Monte-Carlo returns that the data do not carry."""


class MissingLogProb(PolicyInterfaceError):
    """An algorithm needs log pi, which no generative head here provides."""


class UntrainableComposite(PolicyInterfaceError):
    """A composite has no single supervised loss."""


class BridgeError(RobopolicyError):
    """Root of the errors of the wire between this machine and the robot's."""


class UnknownType(BridgeError, ValueError):
    """A message, service or action type that the field table does not have."""


class InvalidMessage(BridgeError, ValueError):
    """A message does not match its type: unknown or missing field, wrong type, null or not finite."""


class FrameRefused(BridgeError, ValueError):
    """A frame of the wire is malformed, too large or not allowed."""


class LinkDown(BridgeError):
    """There is no proven connection, or it was renewed since: nothing is sent and nothing is queued."""


class ServiceFailed(BridgeError):
    """A service or an action answered with a failure, or not in time."""


class ControlProcessLost(BridgeError):
    """The process that controls the arm has ended; the message says how, and what state it was in."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, else the list of known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
