"""The choice of a rendering backend."""

from __future__ import annotations

import os

import pytest

from robopolicy.core.errors import EnvUnavailable
from robopolicy.sim import gl


def test_what_the_user_set_is_kept(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(gl, "probe", lambda backend: pytest.fail("no probe is needed"))
    assert gl.choose_backend() == "osmesa"


def test_first_backend_that_draws_is_taken_and_handed_to_children(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(gl, "probe", lambda backend: "no device" if backend == "egl" else "")
    assert gl.choose_backend() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_without_any_the_error_is_one_line_with_the_packages(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(gl, "probe", lambda backend: "no device")
    with pytest.raises(EnvUnavailable, match=r"egl: no device; osmesa: no device.*apt-get install") as e:
        gl.choose_backend()
    assert "\n" not in str(e.value)


def test_a_broken_backend_is_found_out_in_a_child():
    assert gl.probe("no-such-backend")


@pytest.mark.render
def test_one_backend_draws_here():
    assert "" in [gl.probe(name) for name in gl.BACKENDS]
