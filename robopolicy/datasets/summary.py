"""The facts of a dataset on half a page, for ``robopolicy data info`` and the view page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_info import DEFAULT_COLUMNS
from robopolicy.datasets.reader_types import Feature


@dataclass(frozen=True)
class Summary:
    """Plain values, ready for JSON; ``features`` describes each key in words, ``tasks`` counts episodes."""

    root: str
    version: str
    robot_type: str | None
    fps: float
    episodes: int
    frames: int
    seconds: float
    shortest: int
    longest: int
    mean_length: float
    features: dict[str, str]
    tasks: dict[str, int]
    defects: list[str]


def summarize(reader: Reader) -> Summary:
    """Summary of the readable episodes; what had to be skipped is in ``defects``."""
    lengths = [e.length for e in reader.episodes] or [0]
    tasks = Counter(reader.task_of(e.start) for e in reader.episodes)
    return Summary(
        root=str(reader.root),
        version=reader.version,
        robot_type=reader.info.raw.get("robot_type"),
        fps=reader.fps,
        episodes=len(reader.episodes),
        frames=reader.num_frames,
        seconds=reader.num_frames / reader.fps,
        shortest=min(lengths),
        longest=max(lengths),
        mean_length=sum(lengths) / len(lengths),
        features={k: describe_feature(f, reader) for k, f in reader.features.items() if k not in DEFAULT_COLUMNS},
        tasks=dict(tasks.most_common()),
        defects=[str(d) for d in reader.defects],
    )


def describe_feature(feature: Feature, reader: Reader) -> str:
    """``"2 float32: agent_x, agent_y (px)"`` or ``"camera 96 x 96, h264 video"``."""
    if feature.is_camera:
        _, height, width = feature.shape
        raw = reader.info.raw["features"].get(feature.source, {})
        codec = (raw.get("info") or raw.get("video_info") or {}).get("video.codec", "")
        return f"camera {width} x {height}, {f'{codec} video'.strip() if feature.storage == 'video' else 'pictures'}"
    size = " x ".join(str(s) for s in feature.shape)
    names = ", ".join(feature.names[:8]) + (", ..." if len(feature.names) > 8 else "") if feature.names else ""
    spec = reader.observation_spec()
    unit = spec[feature.key].unit if feature.key in spec else ""
    if feature.key == "action":
        unit = reader.action_space().unit
    return f"{size} {feature.dtype}" + (f": {names}" if names else "") + (f" ({unit})" if unit else "")
