"""What all wrappers share: parents that act, read their own observations, keep their own memories, and are not trained.

A wrapper is a policy again (``Acting``), so wrappers nest.  A new one calls ``Wrapper.__init__`` with its parents, sets
``fps``, ``action_spec``, ``latent_shape``, ``caps`` and ``path``, calls ``_bound``, has ``norm`` and ``decode``, and
overrides whichever hook of ``Acting`` it changes: usually ``_decode_with_info`` (one latent a row), or ``_chunks`` when
it needs more noise.  Its context is a ``Contexts``: ``ctx.parts[i]`` belongs to ``parents[i]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from robopolicy.core.errors import (
    ConfigError,
    HorizonMismatch,
    MissingCapability,
    NonDeterministicDecoder,
    PolicyInterfaceError,
    UntrainableComposite,
)
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.policy import Cap
from robopolicy.core.specs import FeatureSpec, ObservationSpec
from robopolicy.policies.acting import Acting
from robopolicy.policies.normalizer import Affine
from robopolicy.policies.validation import ObservationChecker


@dataclass(frozen=True)
class Contexts:
    """Encodings of the same ``batch_size`` observations by several parties, parents first; ``None``: not asked."""

    parts: tuple[Any, ...]
    batch_size: int

    def repeat_interleave(self, repeats: int) -> Contexts:
        """Every row ``repeats`` times in place."""
        return self._each(lambda part: part.repeat_interleave(repeats), self.batch_size * repeats)

    def index_select(self, rows: Tensor) -> Contexts:
        """The given rows, in the given order."""
        return self._each(lambda part: part.index_select(rows), len(rows))

    def _each(self, change: Callable[[Any], Any], size: int) -> Contexts:
        return Contexts(tuple(None if part is None else change(part) for part in self.parts), size)

    def joined(self, *parts: Any) -> Contexts:
        """The same with further parts at the end, such as a critic's."""
        return Contexts((*self.parts, *parts), self.batch_size)


class Wrapper(Acting):
    """A policy made of ``parents``; each encodes its own keys, once a chunk.  Never in training mode.

    ``readers`` are specs of others who read observations (a critic): their keys join ``observation_spec`` and arrive
    checked in ``_encode``, with the parents' number of observation steps.
    """

    requires: ClassVar[frozenset[Cap]] = frozenset()
    """Capabilities that every parent must have."""
    mend: ClassVar[str] = "wrap a policy that has them"
    """What to do about a missing capability, for the message."""
    parents: Sequence[Acting]

    def __init__(
        self, parents: Sequence[Acting], readers: Sequence[ObservationSpec] = (), heard: Sequence[int] | None = None
    ) -> None:
        """``heard``: numbers of the parents that observe at all (default: all).

        Raises ``MissingCapability``, ``HorizonMismatch`` (observation windows), ``PolicyInterfaceError``.
        """
        super().__init__()
        if not parents:
            raise PolicyInterfaceError(f"{type(self).__name__} needs at least one policy")
        for number, parent in enumerate(parents):
            self._check_parent(number, parent)
        self.parents = nn.ModuleList(parents)  # type: ignore[assignment]
        self.heard = tuple(range(len(parents))) if heard is None else tuple(heard)
        self._readers = tuple(readers)
        self._encoded = 0
        self._seen: tuple[ObservationSpec, ...] = ()
        _check_common(parents)
        self._refresh()
        self.eval()

    def _check_parent(self, number: int, parent: Acting) -> None:
        whose = f"{type(self).__name__}: policy {number} ({type(parent).__name__})"
        if not isinstance(parent, Acting):
            raise PolicyInterfaceError(f"{whose} is no policy that acts; pass what robopolicy.load returns")
        if missing := self._missing(parent):
            names = ", ".join(sorted(c.name for c in missing))
            has = ", ".join(sorted(c.name for c in parent.caps))
            kind = NonDeterministicDecoder if Cap.DECODE in missing else MissingCapability
            raise kind(f"{whose} lacks {names} (it has: {has}); {self.mend}")
        if parent.training:
            raise PolicyInterfaceError(
                f"{whose} is in training mode; put it into evaluation mode (.eval), with its averaged weights in"
            )

    def _missing(self, parent: Acting) -> frozenset[Cap]:
        """Capabilities that this parent should have and has not."""
        return self.requires - parent.caps

    @property
    def observers(self) -> tuple[Acting, ...]:
        """The parents that are heard."""
        return tuple(self.parents[i] for i in self.heard)

    # ----------------------------------------------------------------------------------------------- the border

    def _refresh(self) -> None:
        """Join the parents' specs again if one of them has changed (its goals, its cameras)."""
        specs = (*(p.observation_spec for p in self.observers), *self._readers)
        if specs != self._seen:
            self._joined = joint_spec(specs)
            steps = self.parents[0].action_spec.n_obs_steps
            self._checker = ObservationChecker(self._joined, steps, max(self.needs.goal_steps, 1))
            self._seen = specs

    @property
    def observation_spec(self) -> ObservationSpec:  # type: ignore[override]
        """All that any parent (or reader) reads."""
        self._refresh()
        return self._joined

    @property
    def checker(self) -> ObservationChecker:  # type: ignore[override]
        """The border check of ``observation_spec``."""
        self._refresh()
        return self._checker

    @property
    def recurrent(self) -> bool:
        """Whether any parent carries a state."""
        return any(p.recurrent for p in self.observers)

    @property
    def needs(self) -> WindowNeeds:
        """What the parents need together; one stride, since they plan together."""
        return joint_needs([p.needs for p in self.observers])

    def calibrate(self, observation_spec: ObservationSpec) -> None:
        """As ``Acting.calibrate``, of every parent that observes."""
        for parent in self.observers:
            parent.calibrate(observation_spec)

    # ------------------------------------------------------------------------------------- encoding and memories

    @property
    def encoder_calls(self) -> int:
        """How often a head inside has encoded a batch of observations: once a chunk and head."""
        return self._encoded + sum(p.encoder_calls for p in self.parents if isinstance(p, Wrapper))

    def _encode(self, checked: Mapping[str, Any], *, memory: Any = None) -> Contexts:
        """``memory``: what ``_recall`` returned, one entry a parent."""
        memories = (None,) * len(self.parents) if memory is None else memory
        parts: list[Any] = [None] * len(self.parents)
        for i, parent in zip(self.heard, self.observers, strict=True):
            own = {key: checked[key] for key in parent.observation_spec.keys}
            parts[i] = parent._encode(own, memory=memories[i])
            self._encoded += not isinstance(parent, Wrapper)
        return Contexts(tuple(parts), len(next(iter(checked.values()))))

    def _recall(self, rows: int, episodes: Sequence[Hashable] | None) -> tuple[Any, ...]:
        return tuple(p._recall(rows, episodes) if i in self.heard else None for i, p in enumerate(self.parents))

    def _commit(self, names: Sequence[Hashable], ctx: Contexts) -> None:
        for i, parent in zip(self.heard, self.observers, strict=True):
            parent._commit(names, ctx.parts[i])

    def reset(self, episodes: Sequence[Hashable] | None = None) -> None:
        """Forget what any parent carried for ``episodes`` (default: all)."""
        for parent in self.parents:
            parent.reset(episodes)

    # ------------------------------------------------------------------------------------------------- training

    def train(self, mode: bool = True) -> Wrapper:
        """Evaluation mode only; ``UntrainableComposite`` for ``train()``."""
        if mode:
            raise UntrainableComposite(
                f"{type(self).__name__} is not trained; train its policies one by one, or distil it into a student"
            )
        super().train(False)
        return self

    def supervised_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """There is none: raises ``UntrainableComposite``."""
        raise UntrainableComposite(
            f"{type(self).__name__} has no single supervised loss; distil it into a policy of its own (student=...)"
        )


class Around(Wrapper):
    """A wrapper of a single policy, which it leaves its units and its network queries."""

    @property
    def policy(self) -> Acting:
        """What is wrapped."""
        parent = self.parents[0]
        assert isinstance(parent, Acting)
        return parent

    @property
    def norm(self) -> Affine:
        """That of the policy."""
        return self.policy.norm

    @property
    def denoiser_calls(self) -> int | None:
        """Network queries a chunk: those of the policy, each for all candidates at once where there are several."""
        calls: int | None = getattr(self.policy, "denoiser_calls", None)
        return calls


def _check_common(parents: Sequence[Acting]) -> None:
    """What no wrapper can bridge: windows that begin at different times, and tensors in different places."""
    steps = [p.action_spec.n_obs_steps for p in parents]
    if len(set(steps)) > 1:
        raise HorizonMismatch(
            f"the policies' chunks start at different times (n_obs_steps {', '.join(map(str, steps))}); use policies "
            "trained with equal n_obs_steps"
        )
    devices = [str(p.device) for p in parents]
    if len(set(devices)) > 1:
        raise ConfigError(f"the policies are on different devices ({', '.join(devices)}); load all on one")
    joint_needs([p.needs for p in parents])


def joint_needs(needs: Sequence[WindowNeeds]) -> WindowNeeds:
    """Needs of several policies together.

    Raises ``ConfigError`` where memories step at different intervals, or goals have different lengths.
    """
    strides = {n.chain_stride for n in needs if n.chained}
    if len(strides) > 1:
        raise ConfigError(
            f"the policies' memories step once every {' and '.join(map(str, sorted(strides)))} actions; use policies "
            "trained with equal n_action_steps"
        )
    goals = {n.goal_steps for n in needs if n.goal_steps}
    if len(goals) > 1:
        raise ConfigError(f"the policies read goals of {' and '.join(map(str, sorted(goals)))} steps; use equal ones")
    return WindowNeeds(
        chain_stride=max(strides, default=0),
        max_chain=max(n.max_chain for n in needs),
        goal_steps=max(goals, default=0),
        keyposes=any(n.keyposes for n in needs),
    )


def joint_spec(specs: Sequence[ObservationSpec]) -> ObservationSpec:
    """Every feature of ``specs`` once, in the order met; names and calibrations from whoever has them.

    Raises ``PolicyInterfaceError`` where one key has two shapes, kinds or orders of channels.
    """
    features: dict[str, FeatureSpec] = {}
    for spec in specs:
        for new in spec.features:
            old = features.setdefault(new.key, new)
            pairs: list[tuple[str, Any, Any]] = [
                ("shape", old.shape, new.shape),
                ("kind", old.kind.value, new.kind.value),
            ]
            if old.names and new.names:
                pairs.append(("channels", old.names, new.names))
            if wrong := [f"{name} {a} and {b}" for name, a, b in pairs if a != b]:
                raise PolicyInterfaceError(
                    f"'{new.key}' means different things to the policies: {'; '.join(wrong)}; use policies trained on "
                    "the same observations, or give one of them another key"
                )
            features[new.key] = dataclasses.replace(
                old, names=old.names or new.names, camera=old.camera or new.camera, unit=old.unit or new.unit
            )
    return ObservationSpec(tuple(features.values()))
