"""Data sets for the benchmarks and the demo, made once and kept: `python benches/data.py lineitem images --data DIR`.

lineitem  TPC-H's widest table as tpchgen-cli writes it: 16 columns of integers, decimals, dates and strings, in row
          groups of about 75,000 rows.
images    scikit-image's sample photos as JPEG of about 100 KB, with a label and a unique id. There are only a few
          dozen sample images, so THE PHOTOS REPEAT: each is re-encoded at several sizes, and the variants follow each
          other until the size asked for is reached. Nothing here dedupes or compresses across rows, so repetition
          changes no figure; a cache that did would look better than it is.
dlrm      200 columns in 6,144-row groups, as recommendation models read them (a reader wants 40 of the 200).
flux      nested lists of floats, as a text-to-image model's precomputed embeddings.
small     256 objects of one row group of 1 MiB: 16 columns of random numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness import executables

IMAGES_IN_A_ROW_GROUP = 256
ROW_GROUPS_IN_A_FILE = 4
# What a reader of dlrm wants.
DLRM_COLUMNS = ["label", *(f"dense_{i}" for i in range(13)), *(f"sparse_{i}" for i in range(26))]
TARGET_SIZES = (70_000, 100_000, 130_000)

Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A directory of Parquet files and what is true of it."""

    name: str
    path: Path
    rows: int
    parquet_bytes: int
    # What pyarrow holds after reading it: the GB of every GB/s here, whoever reads.
    arrow_bytes: int

    @property
    def files(self) -> list[Path]:
        return sorted(self.path.glob("*.parquet"))


def lineitem(cache: Path, scale: float, progress: Progress | None = None) -> DataSet:
    def make(directory: Path) -> None:
        _say(progress, 0.0, f"TPC-H lineitem at scale {scale:g}")
        command = [executables.from_pypi("tpchgen-cli"), "parquet", "-s", str(scale), "--tables=lineitem"]
        parts = max(2, round(4 * scale))
        made = subprocess.run(
            [*map(str, command), f"--parts={parts}", f"--output-dir={directory}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise RuntimeError(f"tpchgen-cli failed: {made.stderr.strip()}")
        for file in (directory / "lineitem").iterdir():
            file.rename(directory / file.name)
        (directory / "lineitem").rmdir()

    return _made(cache, "lineitem", f"{scale:g}", make)


def images(cache: Path, megabytes: int, progress: Progress | None = None) -> DataSet:
    def make(directory: Path) -> None:
        variants = list(_photos(progress))
        photos = pa.array([jpeg for _, jpeg in variants], pa.binary())
        labels = pa.array([label for label, _ in variants], pa.string())
        rows = max(IMAGES_IN_A_ROW_GROUP, megabytes * 1_000_000 // (photos.nbytes // len(photos)))
        per_file = IMAGES_IN_A_ROW_GROUP * ROW_GROUPS_IN_A_FILE
        for number, first in enumerate(range(0, rows, per_file)):
            _say(progress, 0.5 + 0.5 * first / rows, f"images, {megabytes} MB of photos that repeat")
            ids = np.arange(first, min(first + per_file, rows))
            table = pa.table(
                {"id": ids, "label": labels.take(ids % len(photos)), "image": photos.take(ids % len(photos))}
            )
            pq.write_table(
                table,
                directory / f"images-{number:04}.parquet",
                row_group_size=IMAGES_IN_A_ROW_GROUP,
                use_dictionary=["label"],
            )

    return _made(cache, "images", str(megabytes), make)


def dlrm(cache: Path, rows: int = 393_216, progress: Progress | None = None) -> DataSet:
    def make(directory: Path) -> None:
        random = np.random.default_rng(7)
        for number, first in enumerate(range(0, rows, 98_304)):
            _say(progress, first / rows, "dlrm, 200 columns")
            count = min(98_304, rows - first)
            columns: dict[str, np.ndarray] = {"label": random.integers(0, 2, count, dtype=np.int8)}
            columns |= {f"dense_{i}": random.random(count, np.float32) for i in range(39)}
            columns |= {f"sparse_{i}": random.zipf(1.3, count).clip(max=2**31 - 1).astype(np.int32) for i in range(160)}
            pq.write_table(pa.table(columns), directory / f"dlrm-{number:03}.parquet", row_group_size=6_144)

    return _made(cache, "dlrm", str(rows), make)


def flux(cache: Path, rows: int = 16_384, progress: Progress | None = None) -> DataSet:
    def make(directory: Path) -> None:
        random = np.random.default_rng(7)

        def nested(count: int, *shape: int) -> pa.Array:
            values: pa.Array = pa.array(random.standard_normal(count * int(np.prod(shape)), np.float32))
            for size in reversed(shape):
                values = pa.ListArray.from_arrays(np.arange(0, len(values) + 1, size, dtype=np.int32), values)
            return values

        for number, first in enumerate(range(0, rows, 4_096)):
            _say(progress, first / rows, "flux, nested lists of floats")
            count = min(4_096, rows - first)
            table = pa.table(
                {
                    "id": np.arange(first, first + count),
                    "text_embedding": nested(count, 16, 256),
                    "pooled_embedding": nested(count, 768),
                    "latent_mean": nested(count, 16, 16, 8),
                }
            )
            pq.write_table(table, directory / f"flux-{number:03}.parquet", row_group_size=1_024, use_dictionary=False)

    return _made(cache, "flux", str(rows), make)


def small(cache: Path, objects: int = 256, progress: Progress | None = None) -> DataSet:
    def make(directory: Path) -> None:
        random = np.random.default_rng(7)
        for number in range(objects):
            _say(progress, number / objects, "small, objects of 1 MiB")
            columns = {f"value_{i}": random.random(8_192) for i in range(16)}
            pq.write_table(pa.table(columns), directory / f"small-{number:04}.parquet", use_dictionary=False)

    return _made(cache, "small", str(objects), make)


def _photos(progress: Progress | None) -> Iterator[tuple[str, bytes]]:
    """scikit-image's sample images as JPEG near each of the target sizes; the label is the sample's name."""
    import skimage.data

    directory = Path(skimage.data.__file__).parent
    sources = sorted(p for p in directory.iterdir() if p.suffix in {".png", ".jpg", ".gif"})
    for i, source in enumerate(sources):
        _say(progress, 0.5 * i / len(sources), f"images, encoding {source.name}")
        with Image.open(source) as opened:
            photo = opened.convert("RGB")
        for size in TARGET_SIZES:
            yield source.stem, _jpeg_near(photo, size)


def _jpeg_near(photo: Image.Image, size: int) -> bytes:
    """`photo` scaled so that its JPEG is about `size` bytes; drawings that compress well stay smaller."""
    area, best = 1.0, b""
    for _ in range(5):
        side = [min(2048, max(32, round(s * area**0.5))) for s in photo.size]
        out = io.BytesIO()
        photo.resize(side).save(out, "JPEG", quality=90)
        best = out.getvalue()
        if abs(len(best) - size) < 0.1 * size or max(side) == 2048 and len(best) < size:
            break
        area *= size / len(best)
    return best


def _made(cache: Path, name: str, size: str, make: Callable[[Path], None]) -> DataSet:
    """The data set in `cache`; made aside and renamed when whole, so a broken run leaves nothing that looks done."""
    path = cache / f"{name}-{size}"
    facts = cache / f"{name}-{size}.json"
    if not (path.is_dir() and facts.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=cache))
        try:
            aside.chmod(0o755)
            make(aside)
            counted = _count(aside)
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
            partial = facts.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(counted))
            partial.rename(facts)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return DataSet(name=name, path=path, **json.loads(facts.read_text()))


def _count(directory: Path) -> dict[str, int]:
    rows = parquet_bytes = arrow_bytes = 0
    for file in directory.glob("*.parquet"):
        parquet_bytes += file.stat().st_size
        with pq.ParquetFile(file) as parquet:
            rows += parquet.metadata.num_rows
            arrow_bytes += sum(parquet.read_row_group(i).nbytes for i in range(parquet.num_row_groups))
    return {"rows": rows, "parquet_bytes": parquet_bytes, "arrow_bytes": arrow_bytes}


def _say(progress: Progress | None, done: float, what: str) -> None:
    if progress is not None:
        progress(done, what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=["lineitem", "images", "dlrm", "flux", "small"])
    parser.add_argument(
        "--data",
        type=Path,
        default=executables.ROOT / ".cache/bench",
        help="where they are kept (default: .cache/bench)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor (default %(default)s)")
    parser.add_argument("--image-mb", type=int, default=1000, help="megabytes of images (default %(default)s)")
    args = parser.parse_args()
    makers = {
        "lineitem": lambda: lineitem(args.data, args.scale),
        "images": lambda: images(args.data, args.image_mb),
        "dlrm": lambda: dlrm(args.data),
        "flux": lambda: flux(args.data),
        "small": lambda: small(args.data),
    }
    for name in args.names:
        made = makers[name]()
        sizes = f"{made.parquet_bytes / 1e6:,.0f} MB Parquet, {made.arrow_bytes / 1e6:,.0f} MB Arrow"
        print(f"{made.path}: {made.rows:,} rows, {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
