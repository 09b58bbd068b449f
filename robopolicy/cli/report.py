"""Write one self-contained HTML page for a run: curves, evaluations with intervals, films, configuration.

usage: robopolicy report RUN [--out FILE]
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--out", help="HTML file (default RUN/report.html)")


def run(args: argparse.Namespace) -> int:
    """Write the page; returns the exit code."""
    from robopolicy.evaluation.report import write_report

    print(write_report(args.run, args.out))
    return 0
