"""One self-contained HTML page of a dataset: facts, findings, lengths, statistics, pictures and curves by episode."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.core.io import write_atomic
from robopolicy.datasets.doctor import diagnose
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Episode, Feature
from robopolicy.datasets.statistics import compute_stats
from robopolicy.datasets.summary import summarize
from robopolicy.datasets.video import resize_rgb
from robopolicy.datasets.view_svg import PALETTE, length_bars, lines

EPISODES = 20
THUMBNAILS = 6
THUMBNAIL_HEIGHT = 96
CHANNELS = len(PALETTE)  # more curves than this in one chart cannot be told apart
MOST_CHANNELS = 64
FINDINGS = 30


@dataclass(frozen=True)
class Chart:
    """Curves of up to ``CHANNELS`` channels of a feature: title and SVG with legend."""

    title: str
    svg: str


@dataclass(frozen=True)
class EpisodeView:
    """One episode of the page: ``strips`` maps a camera to data URIs of its thumbnails."""

    index: int
    length: int
    seconds: float
    task: str
    strips: dict[str, list[str]]
    charts: list[Chart]


def write_page(source: Reader | str | Path, out: str | Path, episodes: Sequence[int] | None = None) -> Path:
    """Write the page to ``out`` and return it.  ``episodes``: ids shown in full, by default the first 20.

    Raises ``DatasetError`` when nothing in the dataset can be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    reader = source if isinstance(source, Reader) else Reader(source, on_defect="skip")
    if not reader.episodes:
        raise DatasetError(f"{reader.root}: no readable episode; see robopolicy data doctor")
    shown = reader.episodes[:EPISODES] if episodes is None else tuple(reader.episode(i) for i in episodes)
    findings = diagnose(reader.root)
    environment = Environment(loader=PackageLoader("robopolicy.datasets"), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("view.html.j2").render(
        summary=summarize(reader),
        name="/".join(reader.root.resolve().parts[-2:]),
        findings=[str(f) for f in findings[:FINDINGS]],
        more_findings=max(0, len(findings) - FINDINGS),
        lengths=length_bars([(e.index, e.length) for e in reader.episodes]),
        stats=_stats_rows(reader),
        episodes=[_episode(reader, e) for e in shown],
        others=len(reader.episodes) - len(shown),
    )
    write_atomic(out, html)
    return Path(out)


def _stats_rows(reader: Reader) -> list[tuple[str, str, list[str], bool]]:
    """(key, channel, formatted min, q01, mean, std, q99, max, constant) of each channel of every feature."""
    rows = []
    for key, s in compute_stats(reader).items():
        names = channel_names(reader.features[key], len(s.mean))
        for c, name in enumerate(names):
            values = [s.min, s.q01 or s.min, s.mean, s.std, s.q99 or s.max, s.max]
            constant = bool(s.constant and s.constant[c])
            rows.append((key if c == 0 else "", name, [f"{v[c]:.4g}" for v in values], constant))
    return rows


def channel_names(feature: Feature, channels: int) -> list[str]:
    """Names of the channels, or their numbers; colours for cameras."""
    if feature.is_camera:
        return ["red", "green", "blue"]
    return list(feature.names) if feature.names else [str(c) for c in range(channels)]


def _episode(reader: Reader, episode: Episode) -> EpisodeView:
    picked = np.unique(np.linspace(episode.start, episode.stop - 1, THUMBNAILS).astype(int))
    strips = {camera: [_thumbnail(f) for f in reader.frames(camera, picked)] for camera in reader.camera_keys}
    charts = [chart for key in charted_keys(reader) for chart in _charts(reader, key, episode)]
    seconds = episode.length / reader.fps
    return EpisodeView(episode.index, episode.length, seconds, reader.task_of(episode.start), strips, charts)


def charted_keys(reader: Reader) -> list[str]:
    """Vectors worth a chart: observations, action, reward."""
    keys = []
    for key, feature in reader.features.items():
        wanted = key.startswith(("observation", "action", "goal", "next.reward"))
        if wanted and feature.storage == "column" and len(feature.shape) == 1 and feature.dtype != "bool":
            keys.append(key)
    return keys


def _charts(reader: Reader, key: str, episode: Episode) -> list[Chart]:
    values = reader.columns[key][episode.start : episode.stop].reshape(episode.length, -1).astype(np.float64)
    names, channels = channel_names(reader.features[key], values.shape[1]), min(values.shape[1], MOST_CHANNELS)
    charts = []
    for first in range(0, channels, CHANNELS):
        part = slice(first, min(first + CHANNELS, channels))
        title = key if channels <= CHANNELS else f"{key} [{part.start}..{part.stop - 1}] of {values.shape[1]}"
        charts.append(Chart(title, lines(np.nan_to_num(values[:, part]), names[part], reader.fps)))
    return charts


def _thumbnail(image: np.ndarray) -> str:
    """Data URI of a small JPEG of one (3, H, W) uint8 image."""
    from PIL import Image

    _, height, width = image.shape
    size = (THUMBNAIL_HEIGHT, max(1, round(width * THUMBNAIL_HEIGHT / height)))
    sink = io.BytesIO()
    Image.fromarray(resize_rgb(np.ascontiguousarray(image.transpose(1, 2, 0)), size)).save(sink, "jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
