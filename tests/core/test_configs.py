"""Configuration classes: one-line errors with the nearest key, plain-data round trips, frozen instances."""

from __future__ import annotations

import dataclasses

import pytest

from robopolicy.core.configs import build_config, config_dataclass, dump_config
from robopolicy.core.errors import ConfigError


@config_dataclass
class Inner:
    """Nested options."""

    width: int = 4
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width must be >= 1, got {self.width}")


@config_dataclass
class Outer:
    """Top-level options."""

    steps: int
    inner: Inner = dataclasses.field(default_factory=Inner)
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)


MESSAGES = [
    ({"steps": 1, "stpes": 2}, "unknown key 'stpes'; did you mean 'steps'?"),
    ({"steps": 1, "inner": {"widht": 2}}, "unknown key 'inner.widht'; did you mean 'width'?"),
    ({"steps": 1, "named": {"a": {"widht": 2}}}, "unknown key 'named.a.widht'; did you mean 'width'?"),
    ({"steps": 1, "inner": {"width": 0}}, "inner: width must be >= 1, got 0"),
    ({"steps": "many"}, "steps: input should be a valid integer, unable to parse string as an integer, got 'many'"),
    ({}, "missing key 'steps'"),
    ({"steps": "x", "oops": 1}, "steps: input should be a valid integer"),
]


@pytest.mark.parametrize(("data", "message"), MESSAGES)
def test_problems_are_told_in_one_line_by_both_ways_in(data, message):
    with pytest.raises(ConfigError) as by_call:
        Outer(**data)
    with pytest.raises(ConfigError) as by_file:
        build_config(Outer, data, "run.yaml")
    assert str(by_call.value).startswith(message)
    assert str(by_file.value).startswith("run.yaml: ")
    assert str(by_call.value).split("; ") == str(by_file.value).removeprefix("run.yaml: ").split("; ")
    assert "\n" not in str(by_call.value)


def test_plain_data_round_trip_and_texts_from_a_command_line():
    config = build_config(Outer, {"steps": "7", "inner": {"shape": ["2", 3]}, "named": {"a": {"width": 9}}})
    assert (config.steps, config.inner.shape, config.named["a"].width) == (7, (2, 3), 9)
    assert build_config(Outer, dump_config(config)) == config


def test_instances_are_frozen_and_replace_validates():
    config = Outer(steps=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 4
    assert dataclasses.replace(config, steps=5).steps == 5
    with pytest.raises(ConfigError, match="steps"):
        dataclasses.replace(config, steps="x")


def test_something_else_than_a_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"run\.yaml: expected a mapping of Outer keys, got list"):
        build_config(Outer, [1], "run.yaml")
