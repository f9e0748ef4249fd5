"""Maps on the node's own host: what comes is what Flight gives, and nothing is copied."""

from __future__ import annotations

import contextlib
import decimal
import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import assert_same, rich_table
from fake_map_node import Host, MapPiece, constant, ipc_file, null, open_files, stored, whole_file

from roost import _map, _map_file

# --- what comes -------------------------------------------------------------------------------------------------------


def test_whole_files(host: Host, tmp_path: Path) -> None:
    table = rich_table(200)
    path = ipc_file(tmp_path / "a.arrow", table, 37)
    found = host.read(table.schema, whole_file(path), whole_file(path, rows_cut=30), whole_file(path))
    assert_same(found, pa.concat_tables([table, table.slice(0, 170), table]))
    assert [len(batch) for batch in found.to_batches()][:7] == [37, 37, 37, 37, 37, 15, 37]
    assert host.client.statistics() == {"mapped_tickets": 1, "streamed_tickets": 0, "direct_tickets": 0}
    assert host.node.next().credits_at_first == 2


@pytest.mark.parametrize("cut", [1, 20, 21, 199, 200])
def test_rows_are_cut(host: Host, tmp_path: Path, cut: int) -> None:
    table = rich_table(200)
    path = ipc_file(tmp_path / "a.arrow", table, 20)
    assert_same(host.read(table.schema, whole_file(path, rows_cut=cut)), table.slice(0, 200 - cut))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("columns", [["nested", "id"], ["kind"], ["a.dotted name", "text", "seen"]])
def test_projections(host: Host, tmp_path: Path, columns: list[str], compression: str | None) -> None:
    table = rich_table(200)
    path = ipc_file(tmp_path / "a.arrow", table, 64, compression=compression)
    wanted = table.select(columns)
    piece = whole_file(path, columns=[stored(0, table.column_names.index(name)) for name in columns])
    assert_same(host.read(wanted.schema, piece), wanted)


def test_columns_of_several_files(host: Host, tmp_path: Path) -> None:
    table = rich_table(100)
    left = ipc_file(tmp_path / "left.arrow", table.select(["nested", "id", "kind"]), 30)
    right = ipc_file(tmp_path / "right.arrow", table.select(["price", "text"]), 30, compression="zstd")
    wanted = table.select(["text", "id", "kind", "price", "nested"])
    columns = [stored(1, 1), stored(0, 1), stored(0, 2), stored(1, 0), stored(0, 0)]
    assert_same(host.read(wanted.schema, MapPiece(4, 100, columns, [left, right], rows_cut=15)), wanted.slice(0, 85))


class Tagged(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.list_(pa.int16()), "roost.tests.tagged")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Tagged:
        return cls()


@pytest.fixture
def tagged() -> Iterator[Tagged]:
    pa.register_extension_type(Tagged())
    yield Tagged()
    pa.unregister_extension_type("roost.tests.tagged")


CONSTANTS = [
    pa.array(["2024"]),
    pa.array([7], pa.int32()),
    pa.array([None], pa.int64()),
    pa.array([1.5]),
    pa.array([True]),
    pa.array(["a"]).dictionary_encode(),
    pa.array([None, "b"]).dictionary_encode().slice(0, 1),
    pa.array([19000], pa.date32()),
    pa.array([5], pa.timestamp("us", tz="UTC")),
    pa.array([decimal.Decimal("1.25")], pa.decimal128(20, 2)),
    pa.array([b"bytes"], pa.large_binary()),
    pa.array([b"abcd"], pa.binary(4)),
    pa.array([[1, 2]]),
    pa.array([{"a": 1, "b": None}]),
    pa.nulls(1),
    pa.array(["viewed and long enough to be out of line"], pa.string_view()),
]


@pytest.mark.parametrize("value", CONSTANTS, ids=lambda value: str(value.type))
def test_constants_and_nulls(host: Host, tmp_path: Path, value: pa.Array) -> None:
    path = ipc_file(tmp_path / "a.arrow", pa.table({"id": range(100)}), 40)
    schema = pa.schema({"before": value.type, "id": pa.int64(), "after": value.type})
    found = host.read(schema, MapPiece(3, 100, [constant(value), stored(0, 0), null()], [path]))
    assert found["id"].to_pylist() == list(range(100))
    assert found["before"].to_pylist() == value.to_pylist() * 100
    assert found["after"].to_pylist() == [None] * 100


def test_constants_of_extension_types(host: Host, tmp_path: Path, tagged: Tagged) -> None:
    values = pa.ExtensionArray.from_storage(tagged, pa.array([[1], None, [2, 3]], pa.list_(pa.int16())))
    path = ipc_file(tmp_path / "a.arrow", pa.table({"own": values}))
    schema = pa.schema({"own": tagged, "same": tagged, "none": tagged})
    found = host.read(schema, MapPiece(1, 3, [stored(0, 0), constant(values.slice(2)), null()], [path]))
    assert found.to_pydict() == {"own": [[1], None, [2, 3]], "same": [[2, 3]] * 3, "none": [None] * 3}


def test_files_may_be_missing(host: Host) -> None:
    schema = pa.schema({"year": pa.string(), "more": pa.int8()}, metadata={"a": "b"})
    found = host.read(schema, MapPiece(3, 100, [constant(pa.array(["x"])), null()], rows_cut=1))
    assert found.to_pydict() == {"year": ["x"] * 99, "more": [None] * 99}


@pytest.mark.parametrize("metadata", [None, {"owner": "tests"}])
def test_no_columns(host: Host, metadata: dict[str, str] | None) -> None:
    found = host.read(pa.schema([], metadata=metadata), MapPiece(3, 100, []), MapPiece(2, 50, [], rows_cut=20))
    assert found.num_rows == 130


def test_no_rows(host: Host, tmp_path: Path) -> None:
    table = rich_table(10)
    empty = ipc_file(tmp_path / "empty.arrow", table.slice(0, 0))
    full = ipc_file(tmp_path / "full.arrow", table)
    columns = [stored(0, i) for i in range(table.num_columns)]
    assert_same(host.read(table.schema, MapPiece(0, 0, columns, [empty]), whole_file(full)), table)
    assert_same(host.read(table.schema, MapPiece(0, 0, columns, [empty])), table.slice(0, 0))
    assert host.client.statistics() == {"mapped_tickets": 2, "streamed_tickets": 0, "direct_tickets": 0}


def test_the_served_schema_is_stamped_on(host: Host, tmp_path: Path, tagged: Tagged) -> None:
    """Names and metadata inside nested types, nullability, and metadata of fields are the served schema's."""
    stored_types = {
        "list": pa.list_(pa.field("element", pa.int32())),
        "map": pa.map_(pa.string(), pa.list_(pa.int8())),
        "deep": pa.struct([pa.field("a", pa.list_(pa.field("x", pa.string())))]),
        "kind": pa.dictionary(pa.int8(), pa.string()),
        "view": pa.string_view(),
        "tag": tagged,
        "id": pa.int64(),
    }
    served = pa.schema(
        [
            pa.field("list", pa.list_(pa.field("item", pa.int32(), metadata={"PARQUET:field_id": "2"}))),
            pa.field("map", stored_types["map"]),
            pa.field("deep", pa.struct([pa.field("a", pa.list_(pa.field("y", pa.string(), metadata={"k": "v"})))])),
            pa.field("kind", stored_types["kind"], metadata={"k": "v"}),
            pa.field("view", stored_types["view"]),
            pa.field("tag", tagged),
            pa.field("id", pa.int64(), nullable=False),
        ],
        metadata={"owner": "tests"},
    )
    values = [
        [[1, None], None, [2]],
        [[("a", [1])], [], None],
        [{"a": ["x"]}, None, {"a": None}],
        ["p", None, "q"],
        ["short", "long enough to be out of line", None],
        [[1], [2, 3], None],
        [1, 2, 3],
    ]
    arrays = []
    for items, type in zip(values, stored_types.values(), strict=True):
        if type is tagged:
            arrays.append(pa.ExtensionArray.from_storage(tagged, pa.array(items, tagged.storage_type)))
        elif pa.types.is_dictionary(type):
            arrays.append(pa.array(items).dictionary_encode().cast(type))
        else:
            arrays.append(pa.array(items, type))
    table = pa.table(arrays, schema=pa.schema(list(stored_types.items()), metadata={"file": "own"}))
    path = ipc_file(tmp_path / "a.arrow", table, 2)
    for _ in range(2):
        # The second time it is known how.
        found = host.read(served, whole_file(path))
        for name, items in zip(served.names, values, strict=True):
            assert found[name].to_pylist() == items, name
    narrow = pa.schema([served.field("id"), served.field("list")], metadata=served.metadata)
    other = pa.table({"list": table["list"]})
    beside = ipc_file(tmp_path / "b.arrow", other, 2)
    found = host.read(narrow, MapPiece(2, 3, [stored(0, 6), stored(1, 0)], [path, beside]))
    assert found.to_pydict() == {"id": [1, 2, 3], "list": values[0]}


# --- memory -----------------------------------------------------------------------------------------------------------


def test_nothing_is_copied(host: Host, tmp_path: Path) -> None:
    rows = 1 << 18
    table = pa.table({"a": range(rows), "b": pa.array(["some text"] * rows), "c": range(rows)})
    path = ipc_file(tmp_path / "a.arrow", table, rows // 4)
    before = pa.total_allocated_bytes()
    schema = pa.schema([table.schema.field("c").with_metadata({"k": "v"}), table.schema.field("b")])
    whole = host.read(table.schema, whole_file(path))
    projected = host.read(schema, whole_file(path, columns=[stored(0, 2), stored(0, 1)]))
    assert pa.total_allocated_bytes() - before < 100_000
    assert whole["b"].equals(projected["b"])


def test_the_connection_lives_as_long_as_the_last_buffer(host: Host, tmp_path: Path) -> None:
    path = ipc_file(tmp_path / "a.arrow", rich_table(100), 10)
    schema = rich_table().schema
    table: pa.Table | None = host.read(schema, whole_file(path), whole_file(path))
    seen = host.node.next()
    assert _map_file.live_maps() == 2
    batch: Any = table.to_batches()[3]
    del table
    column: Any = batch.column(0).slice(2, 3)
    del batch
    gc.collect()
    assert not seen.ended.wait(0.05)
    # The other piece's map is gone.
    assert _map_file.live_maps() == 1
    assert column.to_pylist() == [32, 33, 34]
    del column
    # Without a garbage collection: nothing holds itself.
    assert seen.ended.wait(30)
    assert (_map_file.live_maps(), len(_map._connected)) == (0, 0)


def test_the_connection_ends_with_an_abandoned_iterator(host: Host, tmp_path: Path) -> None:
    path = ipc_file(tmp_path / "a.arrow", rich_table(100), 10)
    ticket = host.ticket(rich_table().schema, *[whole_file(path)] * 5)
    batches = host.client.read_batches(ticket)
    kept: Any = next(batches)
    seen = host.node.next()
    batches.close()
    assert not seen.ended.is_set()
    assert kept.num_rows == 10
    del kept, batches
    assert seen.ended.wait(30)
    # Two pieces were asked for at first, and one more when the first had come; the last may come too late to be sent.
    assert 2 <= seen.sent <= 3


def test_descriptors_are_closed_at_once(host: Host, tmp_path: Path) -> None:
    path = ipc_file(tmp_path / "a.arrow", rich_table(10))
    ticket = host.ticket(rich_table().schema, *[whole_file(path)] * 5)
    held = [host.client.read(ticket) for _ in range(5)]
    assert sum(table.num_rows for table in held) == 250
    assert str(path) not in open_files()
    assert len(_map._connected) == 5


def test_evicted_and_overwritten_files_stay_what_they_were(host: Host, tmp_path: Path) -> None:
    table = rich_table(100)
    path = ipc_file(tmp_path / "a.arrow", table, 10)
    ticket = host.ticket(table.schema, whole_file(path))
    batches = host.client.read_batches(ticket)
    first = next(batches)
    path.unlink()
    ipc_file(path, rich_table(50), 10)
    assert_same(pa.Table.from_batches([first, *batches]), table)


def _read_in_child(table: pa.Table, queue: Any) -> None:
    queue.put(table["id"].to_pylist())


def test_a_forked_child_reads_the_map(host: Host, tmp_path: Path) -> None:
    path = ipc_file(tmp_path / "a.arrow", rich_table(100), 10)
    table = host.read(rich_table().schema, whole_file(path))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(write, b"%d" % sum(value.as_py() for value in table["id"]))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == str(sum(range(100)))
    os.waitpid(child, 0)
    assert table["id"].to_pylist() == list(range(100))


def test_as_many_as_is_safe(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ipc_file(tmp_path / "a.arrow", rich_table(10))
    ticket = host.ticket(rich_table().schema, whole_file(path))
    held = [host.client.read(ticket)]
    monkeypatch.setattr(_map, "_MAPS_MAX", 1)
    with pytest.raises(_map.Unmapped, match="1 maps, as many as is safe"):
        next(_map.read(ticket, str(host.node.path)))
    monkeypatch.undo()
    monkeypatch.setattr(_map.resource, "getrlimit", lambda _: (2, 2))
    with pytest.raises(_map.Unmapped, match="hold 1 connections"):
        next(_map.read(ticket, str(host.node.path)))
    assert not _map.is_left_alone(str(host.node.path))
    del held
    assert next(_map.read(ticket, str(host.node.path)))[:2] == (0, 0)


# --- cold files -------------------------------------------------------------------------------------------------------


class Advised:
    """Records what the kernel is advised, and answers in its place for the ranges of one kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: dict[int, int] | None = None, after: int = 0) -> None:
        self.ranges: list[tuple[int, int, int]] = []
        self._fails = fails or {}
        self._after = after
        monkeypatch.setattr(_map_file, "_is_warm", lambda descriptor, size: False)
        real = _map_file.MappedFile._advise
        monkeypatch.setattr(_map_file.MappedFile, "_advise", lambda file, *advice: self._record(real, file, *advice))

    def _record(self, real: Any, file: Any, start: int, end: int, advice: int) -> int:
        self.ranges.append((start, end, advice))
        if advice in self._fails and len(self.ranges) > self._after:
            return self._fails[advice]
        code: int = real(file, start, end, advice)
        return code


def test_only_the_columns_wanted_are_read_ahead(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1 << 16
    table = pa.table({f"c{i}": range(rows) for i in range(20)})
    path = ipc_file(tmp_path / "a.arrow", table)
    advised = Advised(monkeypatch)
    wanted = table.select(["c3", "c15"])
    found = host.read(wanted.schema, whole_file(path, columns=[stored(0, 3), stored(0, 15)]))
    assert found.equals(wanted)
    populated = [end - start for start, end, advice in advised.ranges if advice == 22]
    # The tail with the footer, the head, and two columns of half a MiB.
    assert sum(populated[2:]) < 2 * rows * 8 + 10_000
    assert sum(populated[2:]) >= 2 * rows * 8


def test_the_next_batch_is_read_ahead(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": range(1 << 20)})
    path = ipc_file(tmp_path / "a.arrow", table, 1 << 19)
    advised = Advised(monkeypatch)
    assert host.read(table.schema, whole_file(path)).equals(table)
    willneed = [(start, end) for start, end, advice in advised.ranges if advice == 3]
    assert sum(end - start for start, end in willneed) >= 4 << 20
    assert max(end - start for start, end in willneed) <= 2 << 20


@pytest.mark.parametrize("code", [errno.EINVAL])
def test_an_old_kernel_is_no_error(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    table = rich_table(100)
    path = ipc_file(tmp_path / "a.arrow", table, 10)
    Advised(monkeypatch, {22: code})
    assert_same(host.read(table.schema, whole_file(path)), table)


@pytest.mark.parametrize("code", [errno.EFAULT, errno.EIO, errno.ENOMEM])
def test_a_failing_disk_is_an_answer(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    table = rich_table(100)
    ticket = host.ticket(table.schema, whole_file(ipc_file(tmp_path / "a.arrow", table, 10)))
    Advised(monkeypatch, {22: code}, after=6)
    given = []
    with pytest.raises(_map.Unmapped, match="can't be read"):
        given.extend(_map.read(ticket, str(host.node.path)))
    assert 0 < len(given) < 10
    assert not _map.is_left_alone(str(host.node.path))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing drops the page cache here")
def test_a_file_that_is_on_disk_only(host: Host, tmp_path: Path) -> None:
    table = pa.table({"a": range(1 << 19), "b": range(1 << 19)})
    path = ipc_file(tmp_path / "a.arrow", table, 1 << 17)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert host.read(table.schema, whole_file(path)).equals(table)
