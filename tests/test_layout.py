"""The layout rules: where code may live, who may import whom, what must not be in the tree, what a wheel carries."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "robopolicy"
DATA_FOLDERS = ("policies", "sim", "real_robot", "datasets", "configs")
# A room may import the rooms above it in this list, never one below.
ROOMS = [
    *("core", "paths", "samplers", "nets", "encoders", "policies", "wrappers", "rl", "datasets", "sim"),
    *("training", "evaluation", "real_robot", "cli", "testing", "lerobot_plugin"),
]
# Rooms that must not know the learning side, and rooms that must import without torch.
BLIND = {
    "datasets": {"paths", "samplers", "nets", "encoders", "policies", "wrappers", "rl"},
    "sim": {"paths", "samplers", "nets", "encoders", "policies", "wrappers", "rl"},
    "real_robot": {"paths", "samplers", "nets", "encoders", "policies", "wrappers", "rl", "training", "evaluation"},
}
TORCH_FREE = ("robopolicy", "robopolicy.core.policy", "robopolicy.sim", "robopolicy.datasets", "robopolicy.real_robot")
SOURCES = sorted(PACKAGE.rglob("*.py"))


def git_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def imported_rooms(path: Path) -> set[tuple[str, int]]:
    """Rooms of robopolicy that a file imports, at any depth, with line numbers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "robopolicy" else [f"robopolicy.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "robopolicy" and len(parts) > 1 and parts[1] in ROOMS:
                found.add((parts[1], node.lineno))
    return found


def test_python_lives_in_three_folders_only():
    allowed = {"robopolicy", "tests", "benchmarks"}
    strays = [p for p in git_files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] not in allowed]
    assert not strays
    for folder in DATA_FOLDERS:
        assert (ROOT / folder).is_dir(), folder
        assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize("mode", ["cwd", "pythonpath", "module"])
def test_datasets_is_huggingfaces_from_every_entry_point(mode, tmp_path):
    code = (
        "import importlib.util as u, sys; s = u.find_spec('datasets'); import datasets; from pathlib import Path;"
        f"assert s.origin, s; assert not Path(datasets.__file__).is_relative_to({str(ROOT / 'datasets')!r});"
        "from robopolicy.resources import resource; assert resource('configs').is_dir(); print('ok')"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command, cwd = [sys.executable, "-c", code], ROOT
    if mode == "pythonpath":
        env["PYTHONPATH"], cwd = str(ROOT), tmp_path
    if mode == "module":
        (tmp_path / "probe_entry.py").write_text(code)
        env["PYTHONPATH"] = str(tmp_path)
        command = [sys.executable, "-m", "probe_entry"]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
    assert importlib.util.find_spec("datasets").loader is not None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_rooms_import_only_rooms_above(path):
    room = path.relative_to(PACKAGE).parts[0]
    # LeRobot imports its plug-in by name, policies and robot in it; nothing of ours imports that room but the verb.
    if room not in ROOMS or room in ("cli", "testing", "lerobot_plugin"):
        return
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) - BLIND.get(room, set())
    wrong = [f"{path.name}:{line} imports {name}" for name, line in imported_rooms(path) if name not in allowed]
    assert not wrong


@pytest.mark.parametrize("module", TORCH_FREE)
def test_light_modules_import_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_torch_free_room_stays_torch_free():
    heavy = []
    for room in ("core", "sim", "datasets", "real_robot"):
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                heavy += [f"{path.relative_to(ROOT)}: {n}" for n in names if n.split(".")[0] in ("torch", "lerobot")]
    assert not heavy


FORBIDDEN = re.compile(
    r"\bimport pickle\b|\bfrom pickle\b|\bimport dill\b|torch\.load\(|yaml\.load\("
    r"|(?<![\w.])eval\(|(?<![\w.])exec\(|allow_pickle=True"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_code_from_data(path):
    hits = [f"{n}: {line.strip()}" for n, line in enumerate(path.read_text().splitlines(), 1) if FORBIDDEN.search(line)]
    assert not hits, f"{path}: nothing read from disk or network may execute code"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_size_budgets(path):
    text = path.read_text()
    assert text.count("\n") <= 500, "split this file"
    tree = ast.parse(text)
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 90
    ]
    assert not long
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None], "bare except"


def test_no_machine_paths_or_hosts_in_the_tree():
    pattern = re.compile(rb"(^|[^a-zA-Z0-9_.])/(work|root|home/[a-z]+)/|pythonhosted\.org|deb\.debian\.org")
    hits = []
    for path in git_files():
        if path.suffix in {".png", ".npz", ".parquet", ".mp4"} or path == Path(__file__):
            continue
        hits += [
            f"{path.relative_to(ROOT)}:{n}"
            for n, line in enumerate(path.read_bytes().splitlines(), 1)
            if pattern.search(line)
        ]
    assert not hits


def test_lock_has_names_and_versions_only():
    lines = (ROOT / "requirements/lock.txt").read_text().splitlines()
    assert len(lines) > 100
    assert [x for x in lines if not re.fullmatch(r"[a-z0-9._\-]+==[0-9][0-9a-zA-Z.+!\-]*", x)] == []


@pytest.mark.slow
def test_wheel_has_one_top_level_name_and_carries_the_data(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        z.extractall(tmp_path / "site")
    tops = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    assert tops == {"robopolicy"}
    for folder in DATA_FOLDERS:
        assert any(n.startswith(f"robopolicy/_share/{folder}/") for n in names), folder
    code = (
        "import robopolicy; from robopolicy.resources import resource, resource_root;"
        "print(resource_root()); assert resource('configs/pusht_state/diffusion.yaml').is_file()"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_share" in done.stdout
