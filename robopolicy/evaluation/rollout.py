"""Closed-loop evaluation of a policy over a queue of seeded episodes.

Episode i starts from ``episode_seed(base_seed, i)`` and the noise of its chunk c is keyed by (base_seed, i, c), so
neither the number of workers nor the company in a batch changes what happens in it.  Only ``slots`` decides batch
sizes, and with them the last bits of a network's arithmetic; the record keeps it.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import to_dict
from robopolicy.evaluation.checks import calibrated, check_fits
from robopolicy.evaluation.execution import ExecutingPlanner
from robopolicy.evaluation.progress import Progress
from robopolicy.evaluation.provenance import describe_nesting, git_commit, machine, package_versions, policy_hash
from robopolicy.evaluation.record import EvaluationRecord, Timing
from robopolicy.evaluation.record_rollouts import RolloutRecorder, check_place, recorded_keys
from robopolicy.evaluation.video import Videos
from robopolicy.sim.pool import Description, Episode, EpisodePool, EpisodeResult, Watch, episode_list
from robopolicy.sim.registry import EnvConfig, env_config
from robopolicy.training.chunk_planner import BatchedPolicy, observed_keys, percentiles
from robopolicy.wrappers.execution import ExecutionConfig

DECODER_OPTIONS = ("sampler", "sampler_options", "num_inference_steps", "spacing", "guidance", "max_steps")
FILM_SIDE = 320  # pixels; also wide enough for the caption


def evaluate(
    policy: Any,
    env: EnvConfig | str | Mapping[str, Any],
    episodes: int = 100,
    base_seed: int = 100_000,
    workers: int = 2,
    slots: int = 16,
    videos: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
    lazy: bool = True,
    step: int | None = None,
    policy_path: str | None = None,
    timeout_s: float = 120.0,
    on_finish: Callable[[EpisodeResult], None] | None = None,
    latency: bool = False,
    ray: str = "",
    record: str | Path | None = None,
    record_keys: Sequence[str] | None = None,
    execution: ExecutionConfig | None = None,
) -> EvaluationRecord:
    """Run ``episodes`` episodes and return (and save) the record.

    ``policy`` is anything with ``act``, ``reset``, ``action_spec`` and ``observation_spec``.  ``out``: the record
    becomes ``<out>.json`` and the films of the first ``videos`` episodes ``<out>/episode_0000.mp4`` and a grid.
    ``workers`` = 0 simulates in this process; with ``ray`` ("local", "auto" or an address) the workers live on that
    Ray cluster, which changes no result.  ``timeout_s`` bounds the simulation of one chunk.  ``latency``: time
    single observations too, one at a time, when the episodes are over.  ``record``: a new folder for a LeRobot dataset
    of all episodes (``evaluation.record_rollouts``) with the observations ``record_keys`` (default: all that the
    environment offers); it changes no result.  ``execution``: how chunks are executed while the policy thinks, with
    injected latency (``evaluation.execution``); mode rtc wraps a policy that does not continue chunks by itself.  None:
    ``n_action_steps`` of every chunk, at once.

    Raises:
        PolicyInterfaceError, InvalidObservation, ActionSpaceMismatch: the policy does not fit the environment, or not
            the mode of execution.
        EnvUnavailable: the environment cannot run here.
        ConfigError: impossible numbers.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be >= 1, got {episodes}")
    if videos and out is None:
        raise ConfigError("videos need a place: give out=PATH (on the command line: --out PATH)")
    if execution is not None and execution.mode == "rtc":
        from robopolicy.wrappers.execution.policy import real_time

        policy = real_time(policy)
    config, stem = env_config(env), record_stem(out)
    root = None if record is None else check_place(record)
    queue = episode_list(episodes, base_seed)
    with EpisodePool(config, workers, slots, timeout_s=timeout_s, ray=ray) as pool, ExitStack() as during:
        told = pool.describe()
        check_fits(policy, told, config.name)
        description = describe_policy(policy, policy_path)
        during.enter_context(calibrated(policy, told.observation_spec))
        keys = () if root is None else recorded_keys(told, record_keys)
        pool.watch = Watch(policy.action_spec.n_obs_steps, observed_keys(policy), lazy, keys)
        recorder = None
        if root is not None:
            recorder = during.enter_context(RolloutRecorder(root, config, told, queue, keys, description))
        planner = BatchedPolicy(policy, base_seed, told.task)
        if execution is not None:
            planner = ExecutingPlanner(policy, base_seed, told.task, execution, told.max_steps)
        films = Videos(stem or Path(), queue, videos, told.task, told.fps, FILM_SIDE)
        policy.reset()
        results, wall = _run(pool, queue, planner, films, progress, on_finish, recorder)
        results = [dataclasses.replace(r, info=planner.info(r.index)) if r.status == "ok" else r for r in results]
        drawn = pool.describe()
    took = dataclasses.replace(timing(results, planner, wall), single_ms=planner.single_ms() if latency else {})
    films_at = tuple(f"{p.parent.name}/{p.name}" for p in films.paths)
    facts: dict[str, Any] = {
        "base_seed": base_seed,
        "slots": slots,
        "workers": workers,
        "step": step,
        "videos": films_at,
    }
    if isinstance(planner, ExecutingPlanner):
        facts["execution"] = planner.report()
    done = new_record(config, drawn, description, results, took, ray, **facts)
    if stem is not None:
        done.save(stem.with_name(stem.name + ".json"))
    return done


def new_record(
    config: EnvConfig,
    told: Description,
    policy: dict[str, Any],
    results: Sequence[EpisodeResult],
    took: Timing,
    ray: str = "",
    **facts: Any,
) -> EvaluationRecord:
    """The record of an evaluation that has just ended; ``facts`` are its further fields, such as ``base_seed``."""
    return EvaluationRecord(
        env={"name": config.name, "kwargs": to_dict(config.kwargs)},
        task=told.task,
        fps=told.fps,
        max_steps=told.max_steps,
        policy=policy,
        episodes=tuple(results),
        timing=took,
        versions=dict(package_versions()),
        machine=machine(told.renderer, told.drawn_by, ray),
        git_commit=git_commit(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
    )


def record_stem(out: str | Path | None) -> Path | None:
    """``out`` without ``.json``: the record is this plus ``.json``, the films lie in a folder of this name."""
    if out is None:
        return None
    path = Path(out)
    return path.with_suffix("") if path.suffix == ".json" else path


def _run(
    pool: EpisodePool,
    queue: list[Episode],
    planner: BatchedPolicy,
    films: Videos,
    progress: bool,
    on_finish: Callable[[EpisodeResult], None] | None,
    recorder: RolloutRecorder | None,
) -> tuple[list[EpisodeResult], float]:
    """Results and wall seconds."""
    start = time.perf_counter()
    with Progress(len(queue), progress) as bar:

        def finished(result: EpisodeResult) -> None:
            planner.forget(result.index)
            if isinstance(planner, ExecutingPlanner):
                planner.settle(result)
            films.finished(result)
            if recorder is not None:
                recorder.finished(result)
            bar.add(result)
            if on_finish is not None:
                on_finish(result)

        try:
            results = pool.run(queue, planner, finished, films.film, recorder.take if recorder else None)
        finally:
            films.close()
    return results, time.perf_counter() - start


def describe_policy(policy: Any, path: str | None) -> dict[str, Any]:
    """What the record says about the policy."""
    spec = policy.action_spec
    return {
        "type": type(policy).__name__,
        "path": path,
        "sha256": policy_hash(policy),
        "horizon": spec.horizon,
        "n_obs_steps": spec.n_obs_steps,
        "n_action_steps": spec.n_action_steps,
        "observation_keys": list(policy.observation_spec.keys),
        **_decoder(policy),
        **describe_nesting(policy),
    }


def _decoder(policy: Any) -> dict[str, Any]:
    """Size of the policy and how its chunks are made, where it says so."""
    told: dict[str, Any] = {}
    if hasattr(policy, "parameters"):
        told["parameters"] = sum(p.numel() for p in policy.parameters())
    if hasattr(policy, "denoiser_calls"):
        told["denoiser_calls"] = policy.denoiser_calls
    config = getattr(policy, "config", None)
    for name in DECODER_OPTIONS:
        if hasattr(config, name):
            told[name] = to_dict(getattr(config, name))
    return told


def timing(results: list[EpisodeResult], planner: BatchedPolicy, wall: float) -> Timing:
    """Speed of an evaluation; the first policy call (lazy initialisation) is left out of the percentiles."""
    return Timing(
        wall_s=round(wall, 3),
        episodes_per_s=round(len(results) / wall, 4),
        steps_per_s=round(sum(r.length for r in results) / wall, 2),
        policy_calls=len(planner.seconds),
        rows=round(float(np.mean(planner.rows)), 2) if planner.rows else 0.0,
        chunk_ms=percentiles(planner.seconds[1:] or planner.seconds),
        policy_share=round(sum(planner.seconds) / wall, 4),
    )
