"""The documentation's Python runs as printed, its links lead somewhere, and its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from robopolicy.policies.io import save_policy
from robopolicy.policies.registry import POLICIES
from robopolicy.rl.improvers import IMPROVERS
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.heads import BACKBONES, tiny_head
from robopolicy.testing.tiny import random_observation

ROOT = Path(__file__).resolve().parent.parent
CARDS = sorted((ROOT / "policies").glob("*/card.md"))
FOLDERS = [ROOT / folder / "README.md" for folder in ("configs", "datasets", "policies", "real_robot", "sim")]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *CARDS, *FOLDERS]
SECTIONS = [
    *("What it is", "When to choose it", "Options that matter", "What differs from the official code"),
    *("Published results", "Tested here", "Measured here"),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


@pytest.mark.slow
@pytest.mark.render
def test_add_a_task_runs_as_printed(tmp_path):
    task, check = blocks(ROOT / "docs/add_a_task.md", "python")
    (tmp_path / "my_tasks.py").write_text(task)
    (tmp_path / "check.py").write_text(
        f"if __name__ == '__main__':\n    {check.strip().replace(chr(10), chr(10) + '    ')}\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    checked = subprocess.run([sys.executable, "check.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr[-2000:]
    command = [
        "-m",
        "robopolicy",
        "collect",
        "my_tasks:PandaReach",
        "--episodes",
        "3",
        "--out",
        "data/reach",
        "--cameras",
    ]
    collected = subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert collected.returncode == 0, collected.stderr[-2000:]
    assert "3 demonstrations" in collected.stdout + collected.stderr


@pytest.mark.slow
def test_add_a_head_runs_as_printed(tmp_path):
    head, check = blocks(ROOT / "docs/add_a_head.md", "python")
    body = [line for line in head.splitlines() if line.strip()]
    assert len(body) <= 65, "the example promises to be short"
    (tmp_path / "imle_head.py").write_text(head)
    (tmp_path / "check.py").write_text(check)
    preset = {
        "dataset": {"path": "data", "val_ratio": 0.0},
        "policy": {"type": "imle", "horizon": 8, "n_action_steps": 4, "unet": {"down_dims": [16, 32]}},
        "steps": 5,
        "batch_size": 8,
        "device": "cpu",
    }
    preset["policy"]["observation_keys"] = ["observation.state"]
    (tmp_path / "imle.yaml").write_text(yaml.safe_dump(preset))
    make_tiny_dataset(tmp_path / "data", cameras=0)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "ROBOPOLICY_PLUGINS": "imle_head"}

    def run(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env={**env, **changes}, capture_output=True, text=True, check=False
        )

    checked = run("check.py")
    assert checked.returncode == 0, checked.stderr[-2000:]
    assert "rules hold" in checked.stdout
    trained = run("-m", "robopolicy", "train", "imle.yaml", "--run_dir", "run")
    assert trained.returncode == 0, trained.stderr[-2000:]
    load = "import robopolicy; print(type(robopolicy.load('run')).__name__)"
    assert run("-c", load).stdout.strip() == "ImlePolicy"
    unknown = run("-c", load, ROBOPOLICY_PLUGINS="")
    assert "unknown policy type 'imle'" in unknown.stderr


@pytest.mark.parametrize("head", BACKBONES)
@pytest.mark.parametrize("page", ["README.md", "docs/concepts.md"])
def test_the_interface_runs_for_every_head(page, head, tmp_path):
    tiny = tiny_head(head, BACKBONES[head][0], "depth" if head == "diffuser_actor_3d" else "state")
    save_policy(tiny, tmp_path / "policy")
    (block,) = blocks(ROOT / page, "python")
    code, replaced = re.subn(r'load\("runs/\w+"\)', f"load({str(tmp_path / 'policy')!r})", block)
    assert replaced == 1
    names = {"observation": random_observation(tiny, 2)}
    exec(code, names)
    spec = tiny.action_spec
    assert names["chunk"].executable.shape == (2, spec.n_action_steps, spec.dim)
    assert names["candidates"].shape == (2, 30, spec.horizon, spec.dim)


def option_names(config_class: Any) -> set[str]:
    """Names of the fields of a configuration and of all sections inside it."""
    names = set()
    for name, info in config_class.__pydantic_fields__.items():
        names.add(name)
        for part in (info.annotation, *typing.get_args(info.annotation)):
            names |= option_names(part) if hasattr(part, "__pydantic_fields__") else set()
    return names


@pytest.mark.parametrize("card", CARDS, ids=lambda p: p.parent.name)
def test_cards_have_one_layout_and_name_real_options(card):
    text = card.read_text()
    assert re.findall(r"^## (.+)$", text, flags=re.M) == SECTIONS
    name = card.parent.name
    known = option_names(IMPROVERS.get(name).config_class if name in IMPROVERS else POLICIES.get(name)[0])
    table = text.partition("## Options that matter")[2].partition("\n## ")[0]
    named = [n for row in re.findall(r"^\| (`[^|]+) \|", table, flags=re.M) for n in re.findall(r"`([\w.]+)`", row)]
    assert len(named) >= 5
    assert [n for n in named if not set(n.split(".")) <= known] == []


def test_the_table_of_presets_names_every_preset():
    listed, folders = set(), []
    for line in (ROOT / "configs/README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 4:
            continue
        folders = re.findall(r"`(\w+)`", cells[1]) or folders  # an empty cell: as in the row above
        for folder in folders:
            if (ROOT / "configs" / folder).is_dir():
                listed |= {f"{folder}/{name}.yaml" for name in re.findall(r"`(\w+)`", cells[2])}
    shipped = {p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").glob("*/*.yaml")}
    assert listed == {p for p in shipped if not p.startswith("suites/")}


def test_every_head_has_a_card_and_a_row_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for head in BACKBONES:
        assert ROOT / "policies" / head / "card.md" in CARDS
        assert f"policies/{head}/card.md" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for target, anchor in re.findall(r"\]\(([\w./]*)#([^)\s]+)\)", page.read_text()):
        titles = re.findall(r"^#+ (.+)$", (page.parent / target if target else page).read_text(), flags=re.M)
        slugs = [re.sub(r"[^\w -]", "", t.lower()).strip().replace(" ", "-") for t in titles]
        assert anchor in slugs, f"{page.name} links to #{anchor} of {target or page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_exist(page):
    from robopolicy.cli.main import VERBS

    text = page.read_text()
    commands = "\n".join(re.findall(r"^```\n(.*?)^```", text, flags=re.S | re.M))
    for verb in re.findall(r"^\s*(?:\.venv/bin/)?robopolicy ([a-z]+)", commands, flags=re.M):
        assert verb in VERBS, f"{page.name} names the verb '{verb}'"
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"^\s*make ([a-z]+)", text, flags=re.M):
        assert re.search(rf"^{verb}:", makefile, flags=re.M), f"{page.name} names 'make {verb}'"
    for preset in re.findall(r"configs/[a-z_]+/[a-z_]+\.yaml", text):
        assert (ROOT / preset).is_file(), f"{page.name} names {preset}"
