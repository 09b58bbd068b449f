"""Measure the success rate of a policy in simulation.

usage: robopolicy evaluate PATH [--env pusht] [--episodes 100] [--env.image_size 96,96 ...]
                           [--sampler.num_inference_steps 3 --sampler.sampler euler ...]
                           [--execution async --latency 0.2 --execution.steps 6 ...]

PATH is a run (its best checkpoint is taken), a checkpoint, a policy directory, the YAML file of a nesting (policies
composed, or ranked by a critic: docs/nesting.md), or lerobot:PATH_OR_HUB_ID.  Episode i starts from seed base_seed + i,
whatever the number of workers.  --sampler.NAME VALUE decodes chunks in another way than the policy was saved with (the
options of its set_sampler; `robopolicy train --help all` explains them).  The record (JSON: every episode, totals with
intervals, versions) and the films go to RUN/eval/, to eval/ beside a YAML file, or to evaluations/ for a policy outside
of a run; `robopolicy report RUN` shows them, `robopolicy compare A.json B.json` pairs two of them by seed.
--execution MODE lets the environment go on while the policy thinks, for --latency SECONDS a chunk (docs/execution.md):
sync, receding, async, ensemble or rtc; --execution.NAME VALUE sets its options (steps, reach, decay, schedule).
--record DIR also writes all episodes, failures included, as a LeRobot dataset, from which critics learn.

exit codes: 0 done, 1 done but episodes were lost to simulator errors, 2 wrong input
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.evaluation.record import EvaluationRecord
    from robopolicy.sim.registry import EnvConfig
    from robopolicy.wrappers.execution import ExecutionConfig

TAKES_REST = True
TIMED = "timed"  # --latency without a number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; ``--env.NAME VALUE`` is read from the rest."""
    parser.add_argument("path", metavar="PATH", help="run, checkpoint, policy directory, or YAML of a nesting")
    parser.add_argument(
        "--env", help="environment (default: that of the run's config.yaml); --env.NAME VALUE sets its options"
    )
    parser.add_argument("--episodes", type=int, default=100, help="episodes (default 100: about +-0.10 at 95 %%)")
    parser.add_argument("--base-seed", type=int, default=100_000, help="seed of episode 0 (default 100000)")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes; 0 = in this one (default 2)")
    parser.add_argument(
        "--ray", default="", metavar="WHERE", help="put the workers on Ray: auto, local or the address of a cluster"
    )
    parser.add_argument("--slots", type=int, default=16, help="episodes in flight, batched together (default 16)")
    parser.add_argument("--videos", type=int, default=0, help="film the first N episodes as MP4")
    parser.add_argument("--record", metavar="DIR", help="also write all episodes to a new LeRobot dataset in DIR")
    parser.add_argument(
        "--record-keys", metavar="KEYS", help="observations to record, with commas between (default: all there are)"
    )
    parser.add_argument("--out", help="record file; films go to a folder of the same name without .json")
    parser.add_argument("--device", default="cpu", help="where the policy runs: cpu or cuda (default cpu)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds one chunk may simulate (default 120)")
    parser.add_argument("--execution", metavar="MODE", help="sync, receding, async, ensemble or rtc")
    parser.add_argument(
        "--latency",
        nargs="?",
        const=TIMED,
        metavar="SECONDS",
        help="with --execution: how long an answer takes; without a number: also time single observations",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit code."""
    from robopolicy.api import find_policy, load
    from robopolicy.evaluation.rollout import evaluate

    rest, execution = execution_options(args.execution, args.latency, args.rest)
    options, decoder = rest_options(rest)
    directory = find_policy(args.path)
    env = choose_env(args.env, options, directory)
    out = Path(args.out) if args.out else default_out(directory, env.name, args.base_seed, args.episodes)
    if execution is not None and not args.out:
        out = out.with_name(f"{out.name}_{execution.mode}_{round(1000 * execution.latency)}ms")
    policy = load(directory, device=args.device)
    if decoder:
        policy.set_sampler(**decoder)
    record = evaluate(
        policy,
        env,
        episodes=args.episodes,
        base_seed=args.base_seed,
        workers=args.workers,
        slots=args.slots,
        videos=args.videos,
        out=out,
        progress=not args.quiet,
        step=training_step(directory),
        policy_path=str(directory),
        timeout_s=args.timeout,
        latency=args.latency == TIMED,
        ray=args.ray,
        record=args.record,
        record_keys=chosen_keys(args.record, args.record_keys),
        execution=execution,
    )
    print_record(record, out.with_name(out.name.removesuffix(".json") + ".json"))
    if args.record:
        print(f"dataset {args.record}: {len(record.scored)} episodes")
    return 1 if record.errors else 0


def execution_options(
    mode: str | None, latency: str | None, rest: Sequence[str]
) -> tuple[list[str], ExecutionConfig | None]:
    """``rest`` without the ``--execution.NAME VALUE`` words, and the mode they describe; None for no mode."""
    from robopolicy.training.overrides import parse_value, split_arguments

    words, flags = split_arguments(rest)
    own = {k.removeprefix("execution."): parse_value(v) for k, v in flags.items() if k.startswith("execution.")}
    kept = [w for name, text in flags.items() if not name.startswith("execution.") for w in (f"--{name}", text)]
    if mode is None:
        if own or latency not in (None, TIMED):
            raise ConfigError("--latency SECONDS and --execution.NAME go with --execution MODE, such as async or rtc")
        return [*words, *kept], None
    from robopolicy.core.configs import build_config
    from robopolicy.wrappers.execution import ExecutionConfig

    seconds = {} if latency in (None, TIMED) else {"latency": latency}
    return [*words, *kept], build_config(ExecutionConfig, {"mode": mode, **seconds, **own}, "--execution")


def chosen_keys(record: str | None, keys: str | None) -> list[str] | None:
    """The keys of ``--record-keys``; None for all."""
    if keys is None:
        return None
    if record is None:
        raise ConfigError("--record-keys goes with --record DIR; name the folder, or leave the keys out")
    return [key.strip() for key in keys.split(",") if key.strip()]


def print_record(record: EvaluationRecord, file: Path) -> None:
    """What a person wants to know first."""
    t = record.timing
    print(f"{record.env['name']}: success    {record.success}")
    print(f"{record.env['name']}: max reward {record.max_reward}")
    if record.execution:
        from robopolicy.evaluation.execution import summary

        print(f"execution {summary(record.execution)}")
    if record.errors:
        seeds = ", ".join(str(e.seed) for e in record.episodes if e.status == "error")
        print(f"episodes lost to simulator errors, not scored: {record.errors} (seeds {seeds})")
    print(f"{t.wall_s:.1f} s, {t.episodes_per_s:.2f} episodes/s, chunk p50/p95/p99 {list(t.chunk_ms.values())} ms")
    print(f"record {file}")


def rest_options(rest: Sequence[str], verb: str = "evaluate") -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the environment and of the sampler from ``--env.NAME VALUE`` and ``--sampler.NAME VALUE`` words.

    Values are YAML; ``96,96`` is a list.
    """
    from robopolicy.training.overrides import parse_value, split_arguments

    words, flags = split_arguments(rest)
    unknown = [*words, *(f"--{name}" for name in flags if not name.startswith(("env.", "sampler.")))]
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]}; see robopolicy {verb} --help")
    env, sampler = {}, {}
    for name, text in flags.items():
        value = parse_value(text if "," not in text or text[:1] in "[{\"'" else f"[{text}]")
        if name.startswith("env."):
            env[name.removeprefix("env.").removeprefix("kwargs.")] = value
        else:
            sampler[name.removeprefix("sampler.")] = value
    return env, sampler


def run_of(policy_dir: Path) -> Path | None:
    """The run a policy directory belongs to (``RUN/checkpoints/step_.../policy``), if any."""
    from robopolicy.nesting_env import run_directory

    return run_directory(policy_dir)


def training_step(policy_dir: Path) -> int | None:
    """Step of the checkpoint that holds the policy, if it lies in one."""
    digits = policy_dir.resolve().parent.name.removeprefix("step_")
    return int(digits) if run_of(policy_dir) is not None and digits.isdigit() else None


def choose_env(name: str | None, options: dict[str, Any], policy: Path) -> EnvConfig:
    """The environment of the command line, with the options of the policy's run or YAML file if it is the same one."""
    from robopolicy.nesting import is_nesting
    from robopolicy.nesting_env import nesting_env, run_env
    from robopolicy.sim.registry import EnvConfig, env_config

    known = nesting_env(policy) if is_nesting(policy) else run_env(policy)
    base = env_config(known) if known else None
    if name is None and base is None:
        raise ConfigError("name the environment: --env pusht (neither the run's config.yaml nor the file has one)")
    if base is None or (name is not None and name != base.name):
        return EnvConfig(name or "", options)
    return EnvConfig(base.name, {**base.kwargs, **options})


def default_out(policy_dir: Path, env: str, base_seed: int, episodes: int) -> Path:
    """Place of the record when none was named."""
    from robopolicy.evaluation.record import record_name
    from robopolicy.nesting import is_nesting

    run_dir = run_of(policy_dir)
    if run_dir is None:
        beside = is_nesting(policy_dir)
        folder = policy_dir.parent / "eval" if beside else Path("evaluations")
        name = policy_dir.stem if beside else policy_dir.resolve().name
        return folder / f"{name}_{env.rpartition(':')[2]}_seed{base_seed}_n{episodes}"
    return run_dir / "eval" / record_name(training_step(policy_dir), env, base_seed, episodes)
