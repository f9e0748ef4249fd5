"""Data sets: deterministic, small, and shaped like what nodes will meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TPCH_TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")


def tpch(directory: Path, scale: float, tables: tuple[str, ...] = TPCH_TABLES, parts: int = 1) -> Path:
    """TPC-H tables as `tpchgen-cli` writes them: DIR/TABLE.parquet, or with parts DIR/TABLE/TABLE.N.parquet."""
    command = [str(Path(sys.executable).with_name("tpchgen-cli")), "parquet", "-s", str(scale)]
    command += [f"--tables={','.join(tables)}", f"--output-dir={directory}"]
    if parts > 1:
        command += [f"--parts={parts}"]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return directory


def images(directory: Path, files: int = 4, rows: int = 60, mean: int = 100_000, group: int | None = None) -> Path:
    """Like a set of photos: binaries that don't compress, of very different lengths, with a label and a caption."""
    rng = np.random.default_rng(7)
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        sizes = rng.integers(mean // 4, mean * 7 // 4, rows)
        table = pa.table(
            {
                "image": pa.array([rng.bytes(int(size)) for size in sizes], pa.binary()),
                "label": pa.array(rng.integers(0, 1000, rows), pa.int64()),
                "caption": pa.array([None if i % 7 == 0 else f"photo {number}/{i}" for i in range(rows)]),
                "size": pa.array([{"width": int(s) % 640, "height": int(s) % 480} for s in sizes]),
            }
        )
        pq.write_table(table, directory / f"images-{number:03}.parquet", row_group_size=group or rows)
    return directory


def numbers(rows: int, columns: int, seed: int = 1) -> pa.Table:
    """Columns c00, c01, ... of 64-bit random numbers, which neither compress nor repeat."""
    rng = np.random.default_rng(seed)
    return pa.table({f"c{i:02}": rng.integers(-(2**62), 2**62, rows) for i in range(columns)})


def wide(path: Path, rows: int = 200_000, columns: int = 20) -> Path:
    """One object, one row group, with column chunks far larger than any read-ahead."""
    pq.write_table(numbers(rows, columns), path, row_group_size=rows, use_dictionary=False, compression="none")
    return path


def units(directory: Path, count: int, size: int = 1 << 20, seed: int = 1) -> Path:
    """`count` objects of one row group of about `size` decoded bytes each: as many units for the cache."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = size // 32
    for number in range(count):
        table = numbers(rows, 4, seed * 100_000 + number)
        pq.write_table(table, directory / f"unit-{number:04}.parquet", row_group_size=rows, use_dictionary=False)
    return directory


def break_first_page(path: Path) -> None:
    """Spoils the header of the first column's first page: the footer stays sound, the row group can't be decoded."""
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)


def small_groups(path: Path, rows: int = 100_000, group: int = 500) -> Path:
    """One object of many small row groups, the last of them shorter."""
    rng = np.random.default_rng(3)
    table = pa.table(
        {
            "id": pa.array(np.arange(rows)),
            "word": pa.array([f"w{int(i)}" for i in rng.integers(0, 5000, rows)]),
            "kind": pa.array([f"kind {int(i)}" for i in rng.integers(0, 9, rows)]).dictionary_encode(),
            "maybe": pa.array([None if i % 3 else float(i) for i in range(rows)]),
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


def hive(directory: Path) -> Path:
    """Partitioned by directories: an integer key and a string key."""
    for year in (2023, 2024):
        for region in ("eu", "us east"):
            part = directory / f"year={year}" / f"region={region}"
            part.mkdir(parents=True)
            pq.write_table(numbers(1000, 3, seed=year + len(region)), part / "part-0.parquet")
    return directory
