"""The report: what is in it, that it needs nothing else, and how a real browser takes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.evaluation.figures import Curve, line_figure, smoothed
from robopolicy.evaluation.report import duration, write_report
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.run_data import read_run
from robopolicy.testing.policies import NoisyGoalPolicy

CONFIG = "dataset:\n  path: data/<demo>\npolicy:\n  type: diffusion\n  backbone: unet\nbatch_size: 64\n"
PLOTS = 7
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1180,1000"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run directory with metrics of every kind, two evaluations (one with an error) and films."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-run"
    env = {"name": "point_reach", "kwargs": {"max_steps": 18, "faults": {"raise": [100_003]}}}
    policy = NoisyGoalPolicy.for_point_reach()
    rows: list[dict] = []
    for step in range(10, 210, 10):
        rows.append(
            {"step": step, "kind": "train", "loss": 10 / step, "lr": 1e-4, "grad_norm": 1.0, "steps_per_s": 5.0}
        )
        rows.append({"step": step, "kind": "val", "loss": 12 / step, "action_error": 1 / step})
    for step in (100, 200):
        out = folder / "eval" / f"step_{step:06d}"
        evaluate(policy, env, 8, base_seed=50_000, workers=0, out=out, progress=False, step=step)
    evaluate(policy, env, 12, workers=0, videos=3, out=folder / "eval" / "final", progress=False, step=200)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 210, "ki')
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def page(run) -> str:
    return write_report(run).read_text()


def test_page_has_every_part(page):
    assert page.count('<svg viewBox="0 0 460') == PLOTS
    assert page.count("<video") == 4  # three episodes and the grid
    assert page.count("<tr>") == 1 + 3
    assert len(re.findall(r'<i class="(?:ok|no|error)" title', page)) == 12
    assert "episode 3, seed 100003: simulator error, not scored" in page
    assert "data/&lt;demo&gt;" in page
    assert "<demo>" not in page


def test_page_needs_nothing_else(page):
    fetched = re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r"url\(([^)]+)\)", page)
    assert fetched
    assert all(f.startswith(("data:", "#")) for f in fetched)
    assert "<script" not in page
    assert "@import" not in page


def test_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_no_rate_without_its_interval(page):
    """Every rate in the table and the headline is followed by brackets and counts."""
    text = re.sub(r"<[^>]+>", " ", page[page.index("<main>") :])
    rates = re.findall(r"(\d\.\d{3}) \[\d\.\d{3}, \d\.\d{3}\] \(\d+/\d+\)", text)
    assert len(rates) == 4
    assert len(re.findall(r"\d(?:\.\d+)? %(?! (?:Wilson|t interval|intervals))", text)) == 1, "only the big figure"


def test_headline_is_the_largest_evaluation(run):
    headline = read_run(run).headline
    assert headline is not None
    assert headline.file.name == "final.json"


def test_curves_are_drawn_from_evaluations_of_the_same_episodes(run):
    assert [(r.step, r.base_seed) for r in read_run(run).periodic()] == [(100, 50_000), (200, 50_000)]


def test_same_run_gives_the_same_page(run, page):
    assert write_report(run, run / "again.html").read_text() == page


def test_metrics_alone_and_evaluations_alone_are_enough(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    only_metrics = write_report(tmp_path).read_text()
    assert only_metrics.count('<svg viewBox="0 0 460') == PLOTS - 2  # rollouts are drawn from their records
    other = tmp_path / "other"
    (other / "eval").mkdir(parents=True)
    (other / "eval" / "a.json").write_text((run / "eval" / "final.json").read_text())
    (other / "eval" / "damaged.json").write_text("{")
    text = write_report(other).read_text()
    assert "damaged.json: not an evaluation record" in text
    assert '<div class="big">' in text


def test_nothing_to_report_says_so(tmp_path):
    with pytest.raises(ConfigError, match="nothing to report"):
        write_report(tmp_path)


def test_a_single_point_is_drawn_with_its_interval():
    svg = line_figure("one", [Curve([100], [0.5], low=[0.3], high=[0.7])], "step", "rate", limits=(0, 1))
    assert "LineCollection" in svg
    assert "var(--accent)" in svg
    assert "#07" not in svg


def test_smoothing_keeps_means_and_length():
    y = np.random.default_rng(0).normal(size=50).tolist()
    assert smoothed(y, 1) == pytest.approx(y)
    flat = smoothed([2.0] * 9, 5)
    assert flat == pytest.approx([2.0] * 9)
    assert smoothed(y, 5)[20] == pytest.approx(np.mean(y[18:23]))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (83, "1 min 23 s"), (7260, "2 h 1 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
def test_a_browser_shows_figures_and_films_without_complaint(run, page, chromium):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromium[1]))
    try:
        driver.get((run / "report.html").as_uri())
        ready = "return [...document.querySelectorAll('video')].every(v => v.readyState >= 2 && v.videoWidth > 0)"
        WebDriverWait(driver, 60).until(lambda d: d.execute_script(ready))
        shown = "return [...document.querySelectorAll('#plots svg')].map(s => s.getBoundingClientRect().width)"
        widths = driver.execute_script(shown)
        assert len(widths) == PLOTS
        assert min(widths) > 300
        assert len(driver.find_elements("css selector", "video")) == 4
        colours = []
        for scheme in ("light", "dark"):
            emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
            colours.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
