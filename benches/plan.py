"""Planning at size: 100,000 objects with a million row groups in a snapshot that is cached.

    python benches/plan.py [--rounds 5]

Each round is a new process that builds the snapshot, then answers the first page of 10,000 tickets, encoded as a
Flight server sends it. Only the answer is timed; the memory is the most that the process ever held, the snapshot
included. Bars: 1 s and 1 GiB."""

from __future__ import annotations

import json
import subprocess
import sys

from harness import executables, report


def sample(objects: int, row_groups: int) -> report.Sample:
    command = [executables.bench("plan"), f"--objects={objects}", f"--row-groups={row_groups}"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(done.stdout)
    if answer["tickets"] != 10_000:
        raise RuntimeError(f"the first page has {answer['tickets']} tickets, 10,000 were due")
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
    samples = report.rounds(args.rounds, {"roost": lambda: sample(args.objects, args.row_groups)}, "plan")
    limits = [report.Limit("roost", "seconds", 1.0), report.Limit("roost", "peak_mib", 1024.0)]
    facts = {"objects": args.objects, "row_groups": args.objects * args.row_groups}
    out.case("first page", samples, limits, facts)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
