"""Decoding on one core: Roost's decoder, alone and with the write of a fragment, against
`pq.read_table(use_threads=False)`.

    python benches/decode.py [--rounds 5] [--core N]

Both read the same local files from the page cache, each in one long-lived process that is pinned to the same core;
they take turns. Roost's batches are dropped as soon as they are decoded or written; pyarrow's table as soon as its
file is read. Before each pass memory is filled and freed (harness/memory.py). Bars: decode 1.2 x on lineitem and 0.75 x
on images, decode and write 0.8 x and 0.35 x.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import data
from harness import executables, memory, report
from harness.processes import Process, clean_up_on_exit

# By data set: decode, decode and write.
BARS = {"lineitem": (1.2, 0.8), "images": (0.75, 0.35)}


def sample(worker: Process, command: str, dataset: data.DataSet, scratch: Path) -> report.Sample:
    memory.refresh(scratch, 2 * dataset.arrow_bytes)
    before = worker.cpu_seconds()
    answer = json.loads(worker.ask(command))
    if answer["rows"] != dataset.rows:
        raise RuntimeError(f"{worker.name} {command}: {answer['rows']} rows came, {dataset.rows} were due")
    gigabytes = dataset.arrow_bytes / 1e9
    cpu = worker.cpu_seconds() - before
    return {"gb_per_s": gigabytes / answer["seconds"], "seconds": answer["seconds"], "cpu_s_per_gb": cpu / gigabytes}


def measure(dataset: data.DataSet, core: int, count: int, scratch: Path) -> dict[str, list[report.Sample]]:
    taskset = [shutil.which("taskset") or "taskset", "-c", str(core)]
    peer = [sys.executable, Path(__file__).with_name("harness") / "decode_peer.py", *dataset.files]
    ours = [executables.bench("decode"), "--scratch", scratch, *dataset.files]
    log = scratch / "log"
    with (
        Process([*taskset, *ours], log, ready="ready", talks=True) as roost,
        Process([*taskset, *peer], log, ready="ready", talks=True) as pyarrow,
    ):
        cases = {
            "roost, decode": lambda: sample(roost, "decode", dataset, scratch),
            "roost, decode and write": lambda: sample(roost, "write", dataset, scratch),
            "pyarrow, read_table": lambda: sample(pyarrow, "read", dataset, scratch),
        }
        for warm_up in cases.values():
            warm_up()
        return report.rounds(count, cases, f"decode {dataset.name}")


def main() -> int:
    parser = report.arguments(__doc__)
    last = max(os.sched_getaffinity(0))
    parser.add_argument("--core", type=int, default=last, help="the core to use (default: the last)")
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("decode", args.json)
    for dataset in (data.lineitem(args.data, args.scale), data.images(args.data, args.image_mb)):
        with tempfile.TemporaryDirectory(prefix="roost-decode-", dir=args.data) as scratch:
            samples = measure(dataset, args.core, args.rounds, Path(scratch))
        decode, write = BARS[dataset.name]
        bars = [
            report.Bar("roost, decode", "pyarrow, read_table", "gb_per_s", decode),
            report.Bar("roost, decode and write", "pyarrow, read_table", "gb_per_s", write),
        ]
        facts = {"rows": dataset.rows, "parquet_mb": dataset.parquet_bytes // 1_000_000}
        out.case(dataset.name, samples, bars, facts)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
