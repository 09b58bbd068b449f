"""Compare two evaluations, paired by seed.

usage: robopolicy compare A B [--json]

A and B are records written by `robopolicy evaluate` (or run directories: their newest record).  Refused when they
are of different environments or seeds; a difference that n episodes cannot show is called that.

exit codes: 0 compared, 2 the records cannot be compared
"""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("a", metavar="A", help="record (JSON) or run directory: the reference")
    parser.add_argument("b", metavar="B", help="record (JSON) or run directory: what is compared with it")
    parser.add_argument("--confidence", type=float, default=0.95, help="of intervals and test (default 0.95)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Compare; returns the exit code."""
    from robopolicy.evaluation.compare import compare_records, find_record, table
    from robopolicy.evaluation.record import EvaluationRecord

    files = find_record(args.a), find_record(args.b)
    a, b = (EvaluationRecord.load(f) for f in files)
    comparison = compare_records(a, b, args.confidence)
    if args.json:
        print(json.dumps(comparison.to_dict(), indent=1))
        return 0
    print(f"A {files[0]}\nB {files[1]}\n")
    for what, value in table(comparison):
        print(f"  {what:<18}{value}")
    for warning in comparison.warnings:
        print(f"  warning: {warning}")
    print(f"\n{comparison.verdict()}")
    return 0
