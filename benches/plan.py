"""Planning at size: 100,000 objects with a million row groups in a snapshot that is cached.

    python benches/plan.py [--rounds 5]

Each round is a new process that builds the snapshot, then answers GetFlightInfo, encoded as it is sent. Only that is
timed; the memory is the most that the process ever held, the snapshot included. `first page` is a PlanRequest's page of
10,000 tickets; its bars are 1 s and 1 GiB. `by path` is the whole plan in one answer, for clients that know nothing of
Roost: 10,000 tickets of 100 row groups each. It has no bar.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from harness import executables, report


def sample(objects: int, row_groups: int, *flags: str) -> report.Sample:
    command = [str(executables.bench("plan")), f"--objects={objects}", f"--row-groups={row_groups}", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(done.stdout)
    planned, due = (answer["row_groups"], answer["tickets"]), (objects * row_groups, min(10_000, objects * row_groups))
    if planned != due:
        raise RuntimeError(f"row groups and tickets are {planned}, {due} were due")
    return {
        "seconds": answer["seconds"],
        "peak_mib": answer["peak_bytes"] / 2**20,
        "page_mb": answer["page_bytes"] / 1e6,
    }


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="objects (default %(default)s)")
    parser.add_argument("--row-groups", type=int, default=10, help="row groups of each (default %(default)s)")
    args = parser.parse_args()
    out = report.Report("plan", args.json)
    facts = {"objects": args.objects, "row_groups": args.objects * args.row_groups}
    cases: dict[str, tuple[list[str], list[report.Bar | report.Limit]]] = {
        "first page": ([], [report.Limit("roost", "seconds", 1.0), report.Limit("roost", "peak_mib", 1024.0)]),
        "by path": (["--by-path"], []),
    }
    for case, (flags, limits) in cases.items():
        reader = {"roost": functools.partial(sample, args.objects, args.row_groups, *flags)}
        out.case(case, report.rounds(args.rounds, reader, f"plan, {case}"), limits, facts)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
