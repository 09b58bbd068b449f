"""The view page holds what it promises, escapes what it shows, and draws in a real browser without an error."""

from __future__ import annotations

import re

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.view import THUMBNAILS, write_page
from robopolicy.datasets.view_svg import PALETTE, length_bars, lines
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.recordings import record_toy, toy_length


def test_page_has_thumbnails_curves_lengths_and_statistics(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v2.1", length=(12, 15, 11), cameras=2)
    html = write_page(root, tmp_path / "page.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 3 * 2 * THUMBNAILS
    assert len(re.findall(r'<details id="episode-\d"', html)) == 3
    # A curve a channel: state 4, action 2, reward 1, for three episodes.
    assert html.count("<polyline") == 3 * (4 + 2 + 1)
    assert html.count("<rect") == 3
    assert "episode 1: 15 frames" in html
    assert "Nothing wrong was found" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert str(tmp_path) not in html


def test_chosen_episodes_and_findings(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v3.0", length=(12, 15, 11), cameras=0)
    (root / "meta/stats.json").unlink()
    html = write_page(root, tmp_path / "page.html", episodes=[2]).read_text()
    assert re.findall(r'<details id="episode-(\d)"', html) == ["2"]
    assert "2 more episodes are not shown" in html
    assert "[stats-missing]" in html
    with pytest.raises(DatasetError, match="episode 7"):
        write_page(root, tmp_path / "other.html", episodes=[7])


def test_text_from_the_dataset_is_escaped(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v2.1", cameras=0)
    for name in ("tasks.jsonl", "episodes.jsonl"):
        path = root / "meta" / name
        path.write_text(path.read_text().replace("reach the marker", "<script>alert(1)</script>"))
    html = write_page(root, tmp_path / "page.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_wide_vectors_are_split_into_readable_charts(tmp_path):
    root = make_tiny_dataset(tmp_path / "d", "v2.1", episodes=1, cameras=0, state_dim=20)
    html = write_page(root, tmp_path / "page.html").read_text()
    titles = re.findall(r"observation.state \[\d+..\d+\] of 20", html)
    assert titles == [f"observation.state [{a}..{b}] of 20" for a, b in ((0, 7), (8, 15), (16, 19))]


def test_svg_places_extremes_on_the_frame():
    svg = lines(np.array([[0.0], [2.0], [1.0]]), ["x"], fps=2, width=152, height=128)
    points = re.search(r'points="([^"]+)"', svg).group(1).split()
    assert points == ["54.0,108.0", "99.0,8.0", "144.0,58.0"]
    assert svg.count(PALETTE[0]) == 2
    assert "1.0 s" in svg
    assert "nan" not in lines(np.zeros((1, 2)), ["a<", "b"], fps=10)
    assert "a&lt;" in lines(np.zeros((1, 2)), ["a<", "b"], fps=10)
    assert length_bars([(3, 10), (4, 5)]).count("<rect") == 2


def test_rerun_recording_is_written(tmp_path):
    pytest.importorskip("rerun")
    from robopolicy.datasets.reader import Reader
    from robopolicy.datasets.view_rerun import write_recording

    reader = Reader(record_toy(tmp_path / "d", 2))
    out = write_recording(reader, tmp_path / "r.rrd")
    one = write_recording(reader, tmp_path / "one.rrd", episodes=[1])
    assert out.read_bytes()[:3] == b"RRF"
    assert out.stat().st_size > one.stat().st_size > 1000


@pytest.mark.browser
def test_page_draws_in_chromium(tmp_path, chromium):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    page = write_page(record_toy(tmp_path / "d", 2), tmp_path / "page.html")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(chromium[1])) as browser:
        browser.get(page.as_uri())
        widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
        charts = browser.find_elements(By.CSS_SELECTOR, ".chart > svg")
        assert len(widths) == toy_length(0) + min(toy_length(1), THUMBNAILS)
        assert min(widths) > 50
        assert len(charts) == 2 * 4
        assert all(c.size["height"] > 50 for c in charts)
        assert browser.get_log("browser") == []
