"""pyarrow's half of the decode benchmark: for each line on standard input, reads all files once and prints the
seconds.
"""

from __future__ import annotations

import json
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq


def main() -> None:
    pa.set_cpu_count(1)
    files = sys.argv[1:]
    print("ready", flush=True)
    for _ in sys.stdin:
        rows, start = 0, time.perf_counter()
        for file in files:
            rows += pq.read_table(file, use_threads=False).num_rows
        print(json.dumps({"seconds": time.perf_counter() - start, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
