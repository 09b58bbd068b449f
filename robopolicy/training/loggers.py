"""Where scalars go: metrics.jsonl and TensorBoard always, Weights & Biases when asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from robopolicy.core.errors import ConfigError
from robopolicy.training.config import LoggingConfig
from robopolicy.training.metrics import MetricsFile


class Sink(Protocol):
    """Anything that takes scalars."""

    def log(self, step: int, kind: str, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardSink:
    """``RUN/tensorboard``; events after ``keep_until`` of an earlier attempt are purged."""

    def __init__(self, run: Path, keep_until: int, folder: str = "tensorboard") -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(run / folder), purge_step=keep_until + 1 if keep_until else None)

    def log(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """Weights & Biases; the run continues under the same id after a resume."""

    def __init__(self, run: Path, config: LoggingConfig, settings: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as e:
            raise ConfigError(
                "log.wandb is true but wandb is not installed; pip install wandb, or --log.wandb false"
            ) from e
        self._run = wandb.init(
            project=config.wandb_project, name=run.name, id=run.name, dir=str(run), resume="allow", config=settings
        )

    def log(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        self._run.log({f"{kind}/{k}": v for k, v in scalars.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class Loggers:
    """All sinks as one; on processes other than the first there are none."""

    def __init__(self, sinks: list[Sink]) -> None:
        self.sinks = sinks

    @staticmethod
    def open(run: Path, config: LoggingConfig, settings: dict[str, Any], keep_until: int) -> Loggers:
        """Sinks of a run whose records up to step ``keep_until`` stay."""
        sinks: list[Sink] = [MetricsFile(run, keep_until), TensorBoardSink(run, keep_until)]
        if config.wandb:
            sinks.append(WandbSink(run, config, settings))
        return Loggers(sinks)

    def log(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Send finite or non-finite ``scalars`` of ``kind`` (train, val, eval) to every sink."""
        for sink in self.sinks:
            sink.log(step, kind, scalars)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
