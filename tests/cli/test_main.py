"""The command line: fast help, one-line errors, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from robopolicy.cli.main import VERBS, main, make_parser
from robopolicy.policies.registry import POLICIES
from robopolicy.sim.registry import ENVS


def test_help_lists_every_verb_and_imports_no_torch(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    code = (
        "import sys; from robopolicy.cli.main import VERBS, make_parser\n"
        "for v in VERBS: make_parser(v)\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'mujoco', 'lerobot', 'matplotlib', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_names_every_task_and_head(capsys):
    assert main(["--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").replace(";", " ").split()
    shipped = {name for name in (*ENVS, *POLICIES) if ":" not in name}  # other tests register classes by their place
    assert shipped - {"point_reach"} <= set(words)  # that one is a toy for tests


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_fits_a_screen(verb):
    parser, module = make_parser(verb)
    text = parser.format_help()
    assert callable(module.run)
    assert "usage: robopolicy" in text
    assert text.count("\n") <= 60


def test_unknown_verb_is_one_line_with_a_hint(capsys):
    assert main(["evalute"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'evaluate'" in err
    assert err.count("\n") == 1
