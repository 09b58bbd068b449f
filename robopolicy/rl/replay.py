"""Replay of collected episodes on disk: every decision stored once, pictures as uint8, read through memory maps.

Source: the chunk transitions of the project's policy interface, section 5.  Differs from replay buffers in memory: an
observation is one row, which is the successor of the row before it; nothing is ever overwritten, so a resumed run finds
what an uninterrupted one would have; memory use does not grow with the pictures; and what is learned from is a *view*,
all episodes of the rounds before a given one, in an order that does not depend on when they finished.

The folder holds ``layout.json`` (checked when it is opened), ``episodes.jsonl`` and one file a column
(``rl.replay_files``); there is one writer at a time, and any number of readers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError, InvalidObservation
from robopolicy.core.improver import ReplayLayout
from robopolicy.core.io import write_atomic
from robopolicy.rl.replay_files import (
    ACTION,
    STEP_REWARDS,
    STEP_SUCCESSES,
    Column,
    EpisodeList,
    EpisodeRecord,
    layout_difference,
    layout_to_dict,
    make_columns,
)
from robopolicy.rl.reward_rule import RewardRule
from robopolicy.rl.transitions import LATENT, NEXT, ChunkTransitions, EpisodeChunks

LAYOUT, EPISODES = "layout.json", "episodes.jsonl"


class Replay:
    """The episodes of a run; make one with ``create`` or ``open``."""

    def __init__(self, root: Path, layout: ReplayLayout, rule: RewardRule, episodes: EpisodeList) -> None:
        self.root, self.layout, self.rule = root, layout, rule
        self._episodes = episodes
        self._columns = make_columns(root, layout)
        self._tables: dict[tuple[int, int], ChunkTransitions] = {}

    @staticmethod
    def create(root: str | Path, layout: ReplayLayout, rule: RewardRule | None = None) -> Replay:
        """An empty replay in the folder ``root``; ``rule`` says what steps are worth (default: ``RewardRule()``).

        Raises ``ConfigError`` where there is one already.
        """
        root = Path(root)
        if (root / LAYOUT).exists():
            raise ConfigError(f"{root}: there is a replay already; open it (--resume), or choose another run directory")
        root.mkdir(parents=True, exist_ok=True)
        write_atomic(root / LAYOUT, json.dumps(layout_to_dict(layout), indent=1))
        return Replay(root, layout, rule or RewardRule(), EpisodeList(root / EPISODES))

    @staticmethod
    def open(root: str | Path, layout: ReplayLayout, rule: RewardRule | None = None) -> Replay:
        """The replay in ``root``; an episode that was being written when its process died is not there.

        Opening writes nothing, so a replay can be read while a run adds to it.
        Raises ``ConfigError`` naming the field in which the stored layout differs from ``layout``, ``DatasetError`` for
        damaged files.
        """
        root = Path(root)
        if not (root / LAYOUT).is_file():
            raise ConfigError(f"{root}: no replay here ({LAYOUT} is missing); expected the replay/ folder of a run")
        try:
            stored = json.loads((root / LAYOUT).read_text())
            difference = layout_difference(stored, layout_to_dict(layout))
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DatasetError(f"{root / LAYOUT}: damaged ({e}); restore it from a copy") from e
        if difference is not None:
            raise ConfigError(f"{root}: {difference}; go on with the settings it was made with, or begin a new run")
        replay = Replay(root, layout, rule or RewardRule(), EpisodeList(root / EPISODES))
        for column in replay._columns.values():
            column.check(replay._episodes.rows)
        return replay

    def __len__(self) -> int:
        """Transitions of all episodes."""
        return sum(e.transitions for e in self._episodes.records)

    @property
    def episodes(self) -> tuple[EpisodeRecord, ...]:
        """The episodes in the order of (round, index)."""
        return tuple(sorted(self._episodes.records, key=lambda e: (e.round, e.index)))

    def __contains__(self, name: object) -> bool:
        """Whether the episode ``(round, index)`` is there."""
        return any((e.round, e.index) == name for e in self._episodes.records)

    def add(self, chunks: EpisodeChunks) -> EpisodeRecord:
        """Write a finished episode to disk: wholly, or, if the process dies before this returns, perhaps not at all.

        Raises ``ConfigError`` for an episode of another layout or one that is there already, ``InvalidObservation`` for
        observations that are not finite.
        """
        if (chunks.round, chunks.index) in self:
            raise ConfigError(f"{self.root}: episode {chunks.index} of round {chunks.round} is there already")
        row = self._episodes.rows
        rows = self._rows(chunks)
        for name, column in self._columns.items():
            self._check(column, name, rows[name])
        for name, column in self._columns.items():
            column.write(row, rows[name])
        record = EpisodeRecord(
            index=chunks.index,
            round=chunks.round,
            seed=chunks.seed,
            row=row,
            transitions=len(chunks),
            steps=len(chunks.step_rewards),
            env_steps=chunks.env_steps,
            success=chunks.success,
            terminated=chunks.terminated,
            truncated=chunks.truncated,
        )
        self._episodes.append(record)
        return record

    def upto(self, round: int) -> ReplayView:
        """All transitions of the episodes of rounds before ``round``, in the order of (round, episode)."""
        chosen = [e for e in self.episodes if e.round < round]
        empty = np.zeros(0, np.int64)
        rows = [np.arange(e.row, e.row + e.transitions) for e in chosen]
        table = ChunkTransitions.joined([self.table(e) for e in chosen]) if chosen else None
        return ReplayView(self, np.concatenate([empty, *rows]), tuple(chosen), table)

    def table(self, episode: EpisodeRecord) -> ChunkTransitions:
        """Numbers of the transitions of one episode."""
        name = (episode.round, episode.index)
        if name not in self._tables:
            at = slice(episode.row, episode.row + episode.transitions)
            rewards, successes = (
                self.rows(key)[at].reshape(-1)[: episode.steps] for key in (STEP_REWARDS, STEP_SUCCESSES)
            )
            ends = (episode.terminated, episode.truncated)
            layout = self.layout
            self._tables[name] = self.rule.transitions(rewards, successes, *ends, layout.gamma, layout.k)
        return self._tables[name]

    def rows(self, name: str) -> np.ndarray:
        """A column, a row a decision and one for the end of each episode: an observation key, ``action``..."""
        return self._columns[name].rows(self._episodes.rows)

    def _rows(self, chunks: EpisodeChunks) -> dict[str, np.ndarray]:
        """The rows of every column: one a decision, and one for what was seen at the end."""
        if missing := [f.key for f in self.layout.features if f.key not in chunks.observations]:
            raise ConfigError(f"{self.root}: the episode has no '{missing[0]}', which the replay stores")
        rows = {f.key: np.asarray(chunks.observations[f.key]) for f in self.layout.features}
        numbers = {
            ACTION: chunks.action,
            STEP_REWARDS: _by_decision(chunks.step_rewards, *chunks.action.shape[:2]),
            STEP_SUCCESSES: _by_decision(chunks.step_successes, *chunks.action.shape[:2]),
        }
        if self.layout.latent_shape is not None:
            if chunks.latent is None:
                raise ConfigError(f"{self.root}: the replay stores latents, and the explorer gave none")
            numbers[LATENT] = chunks.latent
        return rows | {name: np.concatenate([v, np.zeros_like(v[:1])]) for name, v in numbers.items()}

    def _check(self, column: Column, name: str, values: np.ndarray) -> None:
        if values.shape[1:] != column.shape:
            raise ConfigError(f"{self.root}: '{name}' is {column.shape} in every row, got {values.shape[1:]}")
        if column.dtype == np.uint8 and values.dtype != np.uint8:
            raise ConfigError(f"{self.root}: '{name}' is a picture, expected uint8, got {values.dtype}")
        if column.dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidObservation(f"'{name}' is not finite in an episode; the simulator or the policy is broken")


class ReplayView:
    """A fixed set of transitions ``(N,)`` of a replay; later episodes do not change it."""

    def __init__(
        self,
        replay: Replay,
        rows: np.ndarray,
        episodes: tuple[EpisodeRecord, ...],
        table: ChunkTransitions | None,
    ) -> None:
        self.layout, self.episodes, self.table = replay.layout, episodes, table
        self._replay, self._rows = replay, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def env_steps(self) -> int:
        """What these episodes cost to collect."""
        return sum(e.env_steps for e in self.episodes)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Transitions ``rows`` ``(B,)`` as ``rl.transitions`` describes them; new arrays, pictures uint8.

        Raises ``ConfigError`` where there is none.
        """
        if self.table is None:
            raise ConfigError(f"{self._replay.root}: no episode yet")
        rows = np.asarray(rows, np.int64)
        here = self._rows[rows]
        batch: dict[str, np.ndarray] = {}
        for feature in self.layout.features:
            column = self._replay.rows(feature.key)
            batch[feature.key], batch[NEXT + feature.key] = column[here], column[here + 1]
        batch[ACTION] = self._replay.rows(ACTION)[here]
        if self.layout.latent_shape is not None:
            batch[LATENT] = self._replay.rows(LATENT)[here]
        return batch | self.table.rows(rows)


def _by_decision(values: np.ndarray, decisions: int, k: int) -> np.ndarray:
    """Numbers ``(L,)`` of steps as ``(decisions, k)``, zeros beyond the end."""
    out = np.zeros(decisions * k, np.asarray(values).dtype)
    out[: len(values)] = values
    return out.reshape(decisions, k)


def batch_shapes(layout: ReplayLayout) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape of one row and type of every array of a batch that comes from elsewhere: observations and actions."""
    columns = make_columns(Path(), layout)
    keys = {f.key: columns[f.key] for f in layout.features}
    named = {ACTION: columns[ACTION]} | keys | {NEXT + key: column for key, column in keys.items()}
    return {name: (column.shape, column.dtype) for name, column in named.items()}
