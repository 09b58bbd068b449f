"""The page of oracles names tests that exist, and every numbered oracle of the methods."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "oracles.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


def test_every_named_test_exists():
    sources = {path: (TESTS / path).read_text() for path in {path for path, _ in NAMED}}
    missing = [f"{path}::{name}" for path, name in NAMED if f"def {name}(" not in sources[path]]
    assert not missing
    assert len(NAMED) > 100


@pytest.mark.parametrize(("method", "last"), [("EBT-Policy", 23), ("SeedPolicy", 21), ("3D Diffuser Actor", 22)])
def test_no_numbered_oracle_is_left_out(method, last):
    section = PAGE.partition(f"## {method}\n")[2].partition("\n## ")[0]
    assert [int(n) for n in re.findall(r"^\| O(\d+) ", section, flags=re.M)] == list(range(1, last + 1))


@pytest.mark.parametrize(("method", "letter", "last"), [("PA-RL", "P", 15)])
def test_no_numbered_oracle_of_a_method_is_left_out(method, letter, last):
    section = PAGE.partition(f"## {method}\n")[2].partition("\n## ")[0]
    assert [int(n) for n in re.findall(rf"^\| {letter}(\d+) ", section, flags=re.M)] == list(range(1, last + 1))
