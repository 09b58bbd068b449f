"""Every row of the failure table has a test of its name, and the page on safety names files that have it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
PAGE = TESTS.parent / "docs" / "safety.md"
ROWS = [f"F{n:02d}" for n in range(1, 46)]
NAME = re.compile(r"^def test_((?:F\d\d_)+)", re.MULTILINE)


def rows_of(path):
    """Rows that a file has tests of."""
    return {row for names in NAME.findall(path.read_text(encoding="utf-8")) for row in names.split("_") if row}


def stated():
    """Row -> files that the page names."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| (F\d\d) \|", line):
            found[match[1]] = re.findall(r"`([\w/]+\.py)`", line)
    return found


def test_every_row_has_a_test_named_after_it_and_no_test_a_row_that_is_none():
    found = set()
    for path in TESTS.rglob("test_*.py"):
        found |= rows_of(path)
    assert found == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_the_page_names_files_that_have_tests_of_the_row(row):
    files = stated()[row]
    assert files
    for name in files:
        path = next(p for p in (TESTS / "real_robot" / name, TESTS / name) if p.is_file())
        assert row in rows_of(path), name


def test_the_page_has_each_row_once_and_in_order():
    assert list(stated()) == ROWS
