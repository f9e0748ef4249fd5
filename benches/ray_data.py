"""Ray over five epochs: `ray.data.read_parquet` from S3*, at its defaults and tuned, against Roost's readers for Ray.

    python benches/ray_data.py [--cases images,lineitem,dlrm,flux] [--stores ample,quarter,320MiB] [--rounds 5]
    python benches/ray_data.py --cases lineitem --readers ray,tuned late,maps --tuning 'V1, 16 MiB blocks'

S3* is as far away as S3 of the same region (harness/origin.py); what it takes of the machine is reported apart. For
each data set and size of Ray's object store there is a fresh Ray and a fresh Roost node. Every reader reads a first
epoch, Roost's from an empty cache each time; then `--rounds` epochs follow, and the readers take turns. Each reader
ends in one consumer in this process, which copies every byte once; in `late,stages` Ray's tasks consume instead.

ray,default      `ray.data.read_parquet(S3*)`
ray,tuned        the same with the fastest of the settings that are tried before (`TUNINGS` in harness/ray_readers.py)
ray,local        `ray.data.read_parquet` of the Parquet files on this machine's disk, in the page cache
roost            `roost.ray.read_parquet`
late,maps        `roost.ray.iter_batches` of a shard of `roost.ray.tickets`; `late,no prefetch` does without its thread
late,Flight      the same where no map can be had
late,rows        tickets that pass through Ray, fetched by the consumer
late,stages      tickets that Ray's tasks fetch and consume
pyarrow, filecache, roost,no Ray    without Ray: pyarrow's data set on S3*, and on fsspec's cache of whole files; Roost

`images-small` and `lineitem-small` show what Ray costs where an epoch is short. `utilisation` is the share of time in
which an accelerator computes, as MLPerf Storage defines it, on the flux-like set: the compute time of a batch is such
that `pq.read_table` from memory reaches 54 %. `chaos` is a trainer of two ranks over five epochs while the node is
killed every few seconds: rows are exact, and the loss of speed is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import roost

import data
from harness import ray_chart, ray_epoch, ray_readers, report
from harness.node import Node
from harness.origin import Origin
from harness.processes import clean_up_on_exit
from harness.ray_cluster import cluster
from harness.ray_readers import TUNINGS, Place, Reader

CHARTS = Path(__file__).parent / "charts"
DEFAULT, TUNED, LOCAL = "ray,default", "ray,tuned", "ray,local"
BLOCKS, LATE, PLAIN = "roost", "late,maps", "roost,no Ray"
WITHOUT_RAY = ("pyarrow", "filecache", PLAIN)
READERS = (
    *(DEFAULT, TUNED, LOCAL, BLOCKS, LATE),
    *("late,no prefetch", "late,Flight", "late,rows", "late,stages", *WITHOUT_RAY),
)
SETS = ("images", "lineitem", "dlrm", "flux", "images-small", "lineitem-small")
CASES = (*SETS, "utilisation", "chaos")
STORES = ("ample", "quarter", "320MiB")
AMPLE, SMALL = 8 << 30, 320 << 20
FIGURE = "rows_per_s"


def bars(name: str, store: str) -> list[tuple[str, str, float]]:
    """What must be how many times as fast as what."""
    small = store == "320MiB"
    found: list[tuple[str, str, float]] = []
    if name == "images" and store != "quarter":
        found += [(BLOCKS, TUNED, 4 if small else 3.5), (LATE, TUNED, 16 if small else 12)]
        found += [(BLOCKS, DEFAULT, 9), (LATE, DEFAULT, 40)] if small else []
    if name == "lineitem" and store != "quarter":
        found += [(BLOCKS, TUNED, 2.2 if small else 2), (LATE, TUNED, 9 if small else 8)]
        found += [(LATE, DEFAULT, 18)] if small else []
    if name in ("dlrm", "flux") and store != "quarter":
        found += [(LATE, TUNED, 15)]
    if name in ("images", "lineitem", "dlrm", "flux") and store != "quarter":
        found += [(LATE, LOCAL, 12 if small else 5)]
    if store == "ample":
        found += [(PLAIN, "filecache", {"lineitem": 5.0, "flux": 4.0}[name])] if name in ("lineitem", "flux") else []
    return found


def dataset_of(name: str, args: argparse.Namespace) -> tuple[data.DataSet, list[str] | None]:
    """A data set, and the columns that are read of it."""
    if name == "images":
        return data.images(args.data, args.image_mb), None
    if name == "images-small":
        return data.images(args.data, max(1, args.image_mb // 10)), None
    if name == "lineitem":
        return data.lineitem(args.data, args.scale), None
    if name == "lineitem-small":
        return data.lineitem(args.data, args.scale / 10), None
    if name == "dlrm":
        return data.dlrm(args.data, args.dlrm_rows), data.DLRM_COLUMNS
    return data.flux(args.data, args.flux_rows), None


def make(name: str, place: Place, tuning: str, scratch: Path) -> Reader:
    """A reader by its name."""
    if name in (DEFAULT, TUNED, LOCAL):
        settings = TUNINGS[tuning] if name == TUNED else ({}, {})
        return ray_readers.ray_parquet(place, local=name == LOCAL, tuning=settings)
    makers: dict[str, Callable[[], Reader]] = {
        BLOCKS: lambda: ray_readers.roost_blocks(place),
        LATE: lambda: ray_readers.late(place),
        "late,no prefetch": lambda: ray_readers.late(place, prefetch=0),
        "late,Flight": lambda: ray_readers.late(place, maps=False),
        "late,rows": lambda: ray_readers.late_rows(place),
        "late,stages": lambda: ray_readers.late_stages(place),
        "pyarrow": lambda: ray_readers.pyarrow_s3(place),
        "filecache": lambda: ray_readers.filecache(place, scratch),
        PLAIN: lambda: ray_readers.roost_plain(place),
    }
    return makers[name]()


def tune(place: Place, timed: Callable[[Reader], report.Sample]) -> dict[str, float]:
    """GB/s of one epoch with each setting, behind one that warms up."""
    found = {}
    for name, settings in TUNINGS.items():
        reader = ray_readers.ray_parquet(place, tuning=settings)
        found[name] = max(timed(reader)["gb_per_s"] for _ in range(2))
        print(f"  tried {name}: {found[name]:.3f} GB/s", file=sys.stderr)
    return found


def measure(
    out: report.Report, name: str, store: str, args: argparse.Namespace, origin: Origin, root: Path
) -> dict[str, float]:
    """One data set with one size of the object store; answers GB/s by reader."""
    dataset, columns = dataset_of(name, args)
    wanted = [reader for reader in READERS if reader in args.readers]
    if store != "ample":
        wanted = [reader for reader in wanted if reader not in WITHOUT_RAY]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir=root)))
        node = stack.enter_context(Node(scratch, cache_parent=scratch, environment=origin.environment))
        place = Place(origin, node, dataset, columns)
        client = roost.connect(node.address, fallback=False)
        nbytes = client.plan(place.url, columns).nbytes
        size = {"ample": AMPLE, "quarter": max(80 << 20, nbytes // 4), "320MiB": SMALL}[store]
        stack.enter_context(cluster(size, args.cpus, origin.environment))
        timed = functools.partial(ray_epoch.timed, rows=dataset.rows, origin=origin, apart=origin_processes(origin))
        # The S3 server itself is slow on the first pass over a file: nobody shall pay for that.
        timed(ray_readers.pyarrow_s3(place))
        facts: dict[str, object] = {
            "rows": dataset.rows,
            "arrow_mb": nbytes // 1_000_000,
            "object_store_mb": size >> 20,
        }
        tuning = args.tuning
        if TUNED in wanted and tuning is None:
            tried = tune(place, timed)
            tuning = max(tried, key=lambda tried_name: tried[tried_name])
            facts["tried"] = tried
        if TUNED in wanted:
            facts["tuned"] = tuning
        readers: dict[str, Callable[[], report.Sample]] = {}
        first: dict[str, list[report.Sample]] = {}
        for reader_name in wanted:
            reader = make(reader_name, place, tuning or "", scratch)
            if close := getattr(reader, "close", None):
                stack.callback(close)
            readers[reader_name] = functools.partial(timed, reader)
            if reader_name.startswith(("roost", "late")):
                client.evict(place.url)
            first[reader_name] = [readers[reader_name]()]
        case = f"{dataset.name}{'-small' * name.endswith('small')}, {store}"
        goals = [report.Bar(o, DEFAULT, FIGURE, 1.2) for o in (BLOCKS, LATE) if {o, DEFAULT} <= set(wanted)]
        out.case(f"{case}, first epoch", first, goals, facts)
        samples = report.rounds(args.rounds, readers, f"ray {case}")
        goals = [report.Bar(o, t, FIGURE, least) for o, t, least in bars(name, store) if {o, t} <= set(wanted)]
        limits = [report.Limit(o, "origin_mb", 0.1) for o in (BLOCKS, LATE) if o in wanted]
        out.case(case, samples, [*goals, *limits], facts)
        return {reader: sorted(s["gb_per_s"] for s in taken)[len(taken) // 2] for reader, taken in samples.items()}


def origin_processes(origin: Origin) -> Callable[[], set[int]]:
    return lambda: {origin._server.pid, origin._proxy.pid}


def utilisation(out: report.Report, args: argparse.Namespace, origin: Origin, root: Path) -> None:
    """Share of time in which an accelerator computes, on the flux-like set."""
    from harness import ray_utilisation as au

    dataset, columns = dataset_of("flux", args)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir=root)))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/dev/shm")))
        node = stack.enter_context(Node(scratch, cache_parent=scratch, environment=origin.environment))
        place = Place(origin, node, dataset, columns)
        stack.enter_context(cluster(AMPLE, args.cpus, origin.environment))
        files = [Path(memory, file.name) for file in dataset.files]
        for file, copy in zip(dataset.files, files, strict=True):
            copy.write_bytes(file.read_bytes())
        tables = functools.partial(au.read_tables, files, columns)
        compute = au.compute_time(lambda: au.sized(tables(), args.batch), 0.54)
        makers: dict[str, Callable[[], Iterator]] = {"pq.read_table, memory": tables}
        for name in (DEFAULT, LOCAL, BLOCKS, LATE, "late,Flight", PLAIN):
            if name in args.readers:
                makers[name] = make(name, place, "", scratch)

        def run(batches: Callable[[], Iterator]) -> report.Sample:
            share, steps = au.utilisation(au.sized(batches(), args.batch), compute)
            if steps != math.ceil(dataset.rows / args.batch):
                raise RuntimeError(f"{steps} batches came of {dataset.rows} rows")
            return {"utilisation_percent": 100 * share, "waiting_percent": 100 * (1 - share)}

        for batches in makers.values():
            run(batches)
        samples = report.rounds(
            args.rounds, {n: functools.partial(run, b) for n, b in makers.items()}, "ray utilisation"
        )
        goals = [report.Limit(LATE, "waiting_percent", 5.0)] if LATE in makers else []
        facts = {"batch_rows": args.batch, "compute_ms": compute * 1000, "rows": dataset.rows}
        out.case(f"utilisation, flux, {args.batch} rows a batch", samples, goals, facts)


def main() -> int:
    parser = report.arguments(__doc__)
    split = functools.partial(str.split, sep=",")
    parser.add_argument("--cases", type=split, default=list(CASES), help=f"of {','.join(CASES)} (default: all)")
    parser.add_argument("--stores", type=split, default=list(STORES), help=f"of {','.join(STORES)} (default: all)")
    parser.add_argument("--readers", nargs="+", default=list(READERS), metavar="READER", help="(default: all)")
    parser.add_argument("--tuning", choices=TUNINGS, help="take this for `ray,tuned`, and try no others")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs that Ray may use (default %(default)s)")
    parser.add_argument("--dlrm-rows", type=int, default=393_216, help="(default %(default)s)")
    parser.add_argument("--flux-rows", type=int, default=16_384, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="rows of a batch in `utilisation` (default %(default)s)")
    parser.add_argument("--kill-seconds", type=float, default=2.0, help="between two kills in `chaos`")
    parser.add_argument("--step-ms", type=float, default=5.0, help="compute a batch in `chaos` (default %(default)s)")
    parser.add_argument("--no-charts", action="store_true", help="draw nothing")
    args = parser.parse_args()
    for given, known in ((args.cases, CASES), (args.stores, STORES), (args.readers, READERS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(known)}")
    clean_up_on_exit()
    # All of them first: the S3 server keeps listings.
    made = {"utilisation": "flux", "chaos": "lineitem"}
    for name in args.cases:
        dataset_of(made.get(name, name), args)
    out = report.Report("ray_data", args.json)
    drawn: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="roost-ray-", dir=args.data) as scratch:
        root = Path(scratch)
        buckets = root / "buckets"
        buckets.mkdir()
        (buckets / "bench").symlink_to(args.data.resolve())
        with Origin(buckets, root) as origin:
            for name in args.cases:
                figures: dict[str, dict[str, float]] = {}
                for store in args.stores if name in SETS else ():
                    for reader, value in measure(out, name, store, args, origin, root).items():
                        figures.setdefault(reader, {})[store] = value
                if figures and not args.no_charts:
                    drawn.append(CHARTS / f"ray-{name}.svg")
                    title = f"{name}: GB/s, median of {args.rounds} epochs"
                    ray_chart.bars(drawn[-1], title, figures, "GB/s")
            if "utilisation" in args.cases:
                utilisation(out, args, origin, root)
            if "chaos" in args.cases:
                from harness import ray_chaos

                ray_chaos.measure(out, dataset_of("lineitem", args)[0], args, origin, root)
    code = out.finish()
    for path in drawn:
        print(f"\n![{path.stem}](charts/{path.name})", file=sys.stdout if args.json else sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
