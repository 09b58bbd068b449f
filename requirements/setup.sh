#!/usr/bin/env bash
# Makes .venv and installs exactly requirements/lock.txt into it.  Safe to run again: it does nothing when up to date.
# Needs: Python 3.11 on Debian or Ubuntu.  As root it also installs the few system libraries that are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
VENV=${VENV:-.venv}
STAMP="$VENV/.installed"

die() { printf 'setup: %s\n' "$*" >&2; exit 2; }

[ -n "$PYTHON" ] || die "no python3 found; install it: apt-get install python3.11 python3.11-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
  die "$PYTHON is $("$PYTHON" -V), the locked environment needs Python 3.11; set PYTHON=/path/to/python3.11"

# Packages of the system: name -> what proves it is there.  Names are Debian's and Ubuntu's.
missing_system_packages() {
  has_library() { ldconfig -p 2>/dev/null | grep -q "$1"; }
  has_library libEGL.so.1 || echo libegl1
  has_library libOpenGL.so.0 || echo libopengl0
  has_library libGL.so.1 || echo libgl1
  has_library libgthread-2.0.so.0 || echo libglib2.0-0
  find / -xdev -name 'swrast_dri.so' -print -quit 2>/dev/null | grep -q . ||
    find / -xdev -name 'libgallium-*.so' -print -quit 2>/dev/null | grep -q . || echo libgl1-mesa-dri
  "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || command -v uv >/dev/null || echo python3-venv
  [ "${WITH_BROWSER:-0}" = 0 ] || command -v chromium >/dev/null || echo chromium
  [ "${WITH_BROWSER:-0}" = 0 ] || command -v chromedriver >/dev/null || echo chromium-driver
  # ROS 1 for the tests on a real graph: 12 MB of Debian 12's own packages, for its Python 3.11.
  [ "${WITH_ROS:-0}" = 0 ] || [ -d /usr/lib/python3/dist-packages/rospy ] || ! grep -qs bookworm /etc/os-release ||
    printf 'python3-%s\n' rospy rosmaster std-msgs sensor-msgs geometry-msgs std-srvs actionlib genpy rosservice
}

system_packages() {
  local wanted
  wanted=$(missing_system_packages | sort -u | tr '\n' ' ')
  [ -n "${wanted// /}" ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing system packages: $wanted"
    # shellcheck disable=SC2086
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted; } >/dev/null ||
      echo "setup: could not install: $wanted (robopolicy doctor says what does not work without them)" >&2
  else
    echo "setup: missing system packages; run: sudo apt-get install $wanted" >&2
  fi
}

find_uv() {
  if command -v uv >/dev/null; then command -v uv; return; fi
  "$PYTHON" -m venv "$VENV/.bootstrap" >/dev/null || die "cannot make a venv; run: apt-get install python3-venv"
  "$VENV/.bootstrap/bin/python" -m pip install -q --disable-pip-version-check uv >/dev/null
  echo "$VENV/.bootstrap/bin/uv"
}

# ROS 2 for the tests on a real graph: wheels that want an environment of their own (x86-64 only, 270 MB).
ros2_wheels() {
  [ "${WITH_ROS:-0}" = 1 ] && [ "$(uname -m)" = x86_64 ] && [ ! -d .venv-ros2/lib/python3.11/site-packages/rclpy ] || return 0
  echo "setup: installing the ROS 2 wheels into .venv-ros2"
  { "$PYTHON" -m venv .venv-ros2 && .venv-ros2/bin/pip install -q "ros-rclpy[fastrtps]==9.1.2" \
    ros-{std-msgs,sensor-msgs,geometry-msgs,std-srvs}==5.5.1; } >/dev/null 2>&1 ||
    echo "setup: could not install the ROS 2 wheels; the tests on a ROS 2 graph are skipped" >&2
}

want=$(cat requirements/lock.txt pyproject.toml | sha256sum | cut -d' ' -f1)
system_packages
ros2_wheels
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$want" ]; then exit 0; fi
mkdir -p "$VENV"
uv=$(find_uv)
[ -x "$VENV/bin/python" ] || "$uv" venv -q --allow-existing --python "$PYTHON" "$VENV"
echo "setup: installing $(wc -l <requirements/lock.txt) locked packages into $VENV (a few GB with torch; a minute or a few)"
"$uv" pip install -q --no-deps -r requirements/lock.txt --python "$VENV/bin/python"
"$uv" pip install -q --no-deps --no-build-isolation -e . --python "$VENV/bin/python"
printf '%s' "$want" >"$STAMP"
echo "setup: done"
