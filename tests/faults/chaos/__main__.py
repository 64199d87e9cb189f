"""`make chaos`: a run of 100,000 messages; exit code 1 if a promise was broken."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.chaos.disturb import TROUBLES
from tests.faults.chaos.report import table
from tests.faults.chaos.run import Options, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=4.0, help="of enqueueing and faults")
    parser.add_argument("--fsync", choices=("everysec", "always"), default="everysec")
    parser.add_argument("--rate", type=float, default=0.005, help="of each kind of fault")
    parser.add_argument("--redis", choices=("single", "sentinel"), default="single")
    parser.add_argument("--door", type=float, default=0.1, help="part of messages as Celery tasks")
    parser.add_argument("--campaigns", type=float, default=0.3, help="part of apps' bulks in them")
    some: dict[str, Any] = {"choices": TROUBLES, "action": "append", "default": []}
    parser.add_argument("--without", **some, help="a trouble to leave out")
    parser.add_argument("--only", **some, help="a trouble: no other one comes but these")
    parser.add_argument("--plant", default="", help="a fault to plant (program.py)")
    parser.add_argument("--keep", action="store_true", help="the evidence in any case")
    given = parser.parse_args()
    options = Options(
        seed=given.seed,
        messages=given.messages,
        seconds=given.minutes * 60,
        rate=given.rate,
        fsync=given.fsync,
        plant=given.plant,
        redis=given.redis,
        door=given.door,
        part=given.campaigns,
        without=frozenset(given.without or (given.only and set(TROUBLES) - set(given.only))),
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {options.seed}, {options.messages} messages, evidence in {folder}", flush=True)
    report = run(options, folder, lambda line: print(line, flush=True))
    print(table(options, report))
    if report.verdict.violations or given.keep:
        print(f"evidence in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if report.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
