"""Where no node answers: same rows, same order, same schema, straight from the origin, and one warning."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROW_GROUP, ROWS, assert_same, rich_table
from test_nodes import closed_address

import roost
from roost import _direct, _nodes
from roost._origin import _aws_settings, canonical, glob_pattern, list_objects, locate

pytestmark = pytest.mark.filterwarnings("ignore::roost.DirectReadWarning")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> roost.Client:
    monkeypatch.setattr(_nodes, "_DELAYS_WITH_FALLBACK", (0.01,))
    return roost.connect(closed_address())


@pytest.mark.parametrize(
    "columns", [None, ["nested", "id"], ["kind", "text"], ["a.dotted name"], ["seen", "price", "kind"], []]
)
def test_read_table_equals_pyarrow(client: roost.Client, dataset: Path, columns: list[str] | None) -> None:
    # pyarrow takes a dot in a name of `columns` for a path.
    expected = pq.read_table(dataset).select(columns) if columns else pq.read_table(dataset, columns=columns)
    assert_same(client.read_table(dataset, columns), expected)
    one = dataset / "part-1.parquet"
    expected = pq.read_table(one).select(columns) if columns else pq.read_table(one, columns=columns)
    assert_same(client.read_table(one, columns), expected)


def test_plan(client: roost.Client, dataset: Path) -> None:
    plan = client.plan(dataset)
    assert plan.direct
    # Small row groups of one object are one ticket.
    assert [ticket.pieces for ticket in plan] == [
        (roost.Piece(f"file://{dataset}/part-{i}.parquet", 0, 7, ROWS),) for i in range(3)
    ]
    assert repr(plan).endswith(", 7 columns (id, text, kind, price, seen, nested, …), read from the origin>")
    assert repr(plan.tickets[0]).startswith(f"<roost.Ticket file://{dataset}/part-0.parquet#rg0-6: 200 rows")
    assert 0 < client.plan(dataset, ["id"]).nbytes < plan.nbytes
    assert client.plan(dataset).fingerprint == plan.fingerprint
    assert client.plan(dataset, ["id"]).fingerprint != plan.fingerprint
    batches = list(plan.batches())
    assert all(batch.schema.equals(plan.schema, check_metadata=True) for batch in batches)
    assert pa.Table.from_batches(batches)["id"].to_pylist() == list(range(3 * ROWS))


def test_large_row_groups_are_tickets_of_their_own(client: roost.Client, tmp_path: Path) -> None:
    table = pa.table({"n": range(200_000)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=50_000)
    plan = client.plan(tmp_path / "x.parquet")
    assert [piece.row_groups for ticket in plan for piece in ticket.pieces] == [1, 1, 1, 1]
    pq.write_table(table, tmp_path / "y.parquet", row_group_size=20_000)
    plan = client.plan(tmp_path / "y.parquet")
    assert [(t.pieces[0].row_group, t.pieces[0].row_groups) for t in plan] == [(0, 3), (3, 3), (6, 3), (9, 1)]
    assert_same(plan.to_table(), table)


@pytest.mark.parametrize("limit", [0, 1, ROW_GROUP, 201, 599, 600, 10_000])
def test_limit(client: roost.Client, dataset: Path, limit: int) -> None:
    assert_same(client.read_table(dataset, limit=limit), pq.read_table(dataset).slice(0, limit))
    assert client.read_table(dataset, [], limit).num_rows == min(limit, 600)
    assert client.plan(dataset, limit=limit).num_rows == min(limit, 600)


@pytest.mark.parametrize("skip", [0, 1, 7, 100, 199, 200])
def test_skip(client: roost.Client, dataset: Path, skip: int) -> None:
    ticket = client.plan(dataset).tickets[1]
    batches = list(_direct.read(ticket, skip))
    assert [i for batch in batches for i in batch["id"].to_pylist()] == list(range(ROWS + skip, 2 * ROWS))


def _read(packed: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", roost.DirectReadWarning)
        client, ticket = pickle.loads(packed)
        return client.read(ticket).num_rows  # type: ignore[no-any-return]


def test_a_lone_ticket_reads_anywhere(client: roost.Client, dataset: Path) -> None:
    packed = pickle.dumps((client, client.plan(dataset).tickets[2]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_read, (packed,)) == ROWS


def test_it_warns_once(client: roost.Client, dataset: Path) -> None:
    with pytest.warns(roost.DirectReadWarning, match="roost serve") as caught:
        client.read_table(dataset)
    assert caught[0].filename == __file__, "it names the line that reads"
    with warnings.catch_warnings():
        warnings.simplefilter("error", roost.DirectReadWarning)
        client.read_table(dataset)
        roost.connect(closed_address()).read_table(dataset)


def test_without_fallback_it_is_an_error(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nodes, "_DELAYS", (0.01,))
    with pytest.raises(roost.UnavailableError, match="no node answers"):
        roost.connect(closed_address(), fallback=False).read_table(dataset)


# --- what a data set is -----------------------------------------------------------------------------------------------


def test_hidden_names_are_skipped(client: roost.Client, dataset: Path) -> None:
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_temporary/x.parquet", ".git/y"):
        path = dataset / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not Parquet")
    assert_same(client.read_table(dataset), pq.read_table(dataset))


def test_order_is_by_the_bytes_of_paths(client: roost.Client, tmp_path: Path) -> None:
    for number, name in enumerate(["b.parquet", "a.parquet", "Z.parquet", "a/x.parquet", "ä.parquet", "a-.parquet"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"n": [number]}), path)
    assert_same(client.read_table(tmp_path), pq.read_table(tmp_path))


def test_globs(client: roost.Client, tmp_path: Path) -> None:
    for number, name in enumerate(["a1", "a2", "b1", "sub/a3", "a*", "_h"]):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"n": [number]}), path)

    def read(glob: str) -> list[int]:
        return sorted(client.read_table(glob)["n"].to_pylist())

    assert read(f"{tmp_path}/a[0-9].parquet") == [0, 1]
    assert read(f"{tmp_path}/[!a]*.parquet") == [2]
    assert read(f"{tmp_path}/?1.parquet") == [0, 2]
    assert read(f"{tmp_path}/**/a*.parquet") == [0, 1, 3, 4]
    assert read(f"file://{tmp_path}/a%2A.parquet") == [4]
    assert read(f"file://{tmp_path}/a%2A*") == [4]
    # A file that is there is meant, though its name could be a glob.
    assert read(f"{tmp_path}/a*.parquet") == [4]
    assert read(f"{tmp_path}/_*.parquet") == [5]
    with pytest.raises(roost.NotFoundError):
        client.plan(f"{tmp_path}/c*.parquet")


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("a/**", "a/b/c", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("*", "a/b", False),
        ("a**c", "a/c", False),
        ("a**c", "abc", True),
        ("[]]", "]", True),
        ("[^a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("{a,b}", "{a,b}", True),
        ("a.b", "axb", False),
        ("%5Ba", "[a", True),
    ],
)
def test_glob_pattern(glob: str, path: str, matches: bool) -> None:
    assert (glob_pattern(glob).fullmatch(path) is not None) is matches


def test_hive_partitions(client: roost.Client, tmp_path: Path) -> None:
    table = rich_table(20)
    for year in (2023, 2024):
        for kind in ("a b", "c%d"):
            pq.write_to_dataset(
                table.append_column("year", pa.array([year] * 20)).append_column("sort", pa.array([kind] * 20)),
                tmp_path,
                partition_cols=["year", "sort"],
                basename_template="{i}.parquet",
                existing_data_behavior="delete_matching",
            )
    expected = pq.read_table(tmp_path)
    assert expected.column_names[-2:] == ["year", "sort"]
    assert_same(client.read_table(tmp_path), expected)
    assert_same(client.read_table(tmp_path, ["sort", "id"]), pq.read_table(tmp_path, columns=["sort", "id"]))
    # A lone ticket knows which directories are the data set's.
    ticket = pickle.loads(pickle.dumps(client.plan(tmp_path, ["year"]).tickets[0]))
    assert set(client.read(ticket)["year"].to_pylist()) == {2023}
    # Neither an object alone nor a glob below the partitions has the column.
    one = next(tmp_path.rglob("*.parquet"))
    assert "year" not in client.plan(one).schema.names


def test_objects_that_differ(client: roost.Client, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.int32()), "b": ["x", "y"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"c": [0.5], "a": pa.array([2**40], pa.int64())}), tmp_path / "1.parquet")
    found = client.read_table(tmp_path)
    assert found.schema == pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())])
    assert found.to_pydict() == {"a": [1, 2, 2**40], "b": ["x", "y", None], "c": [None, None, 0.5]}
    pq.write_table(pa.table({"a": ["text"]}), tmp_path / "2.parquet")
    with pytest.raises(roost.InvalidRequestError, match=r"'a' is int64 in .*1\.parquet but string in .*2\.parquet"):
        client.plan(tmp_path)


def test_objects_without_rows(client: roost.Client, tmp_path: Path) -> None:
    empty = rich_table(3).slice(0, 0)
    pq.write_table(empty, tmp_path / "0.parquet")
    assert_same(client.read_table(tmp_path / "0.parquet"), pq.read_table(tmp_path / "0.parquet"))
    with pq.ParquetWriter(tmp_path / "1.parquet", empty.schema) as writer:
        writer.write_table(empty)
        writer.write_table(rich_table(3))
        writer.write_table(empty)
    assert_same(client.read_table(tmp_path), pq.read_table(tmp_path))
    assert len(client.plan(tmp_path / "0.parquet")) == 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_errors_name_the_thing(client: roost.Client, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(roost.NotFoundError, match=r"nothing\.parquet"):
        client.plan(tmp_path / "nothing.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(roost.NotFoundError, match="no Parquet object there"):
        client.plan(tmp_path / "empty")
    with pytest.raises(roost.InvalidRequestError, match="no column 'nope'; it has 'id', 'text'"):
        client.plan(dataset, ["id", "nope"])
    with pytest.raises(roost.InvalidRequestError, match="column 'id' is asked for twice"):
        client.plan(dataset, ["id", "text", "id"])
    (dataset / "part-3.parquet").write_bytes(b"PAR1 this is not what it claims to be PAR1")
    with pytest.raises(roost.CorruptDataError, match=r"part-3\.parquet: not a Parquet file"):
        client.plan(dataset)
    (dataset / "part-3.parquet").write_bytes(b"")
    with pytest.raises(roost.CorruptDataError, match=r"part-3\.parquet"):
        client.plan(dataset)
    with pytest.raises(roost.UnsupportedError, match="gs:// is read only through a node"):
        client.plan("gs://bucket/x")


def test_an_object_that_changed_is_stale(client: roost.Client, dataset: Path) -> None:
    plan = client.plan(dataset)
    pq.write_table(rich_table(10), dataset / "part-1.parquet")
    with pytest.raises(roost.StalePlanError, match=r"part-1\.parquet"):
        plan.to_table()
    (dataset / "part-1.parquet").unlink()
    with pytest.raises(roost.StalePlanError, match=r"part-1\.parquet is gone"):
        plan.to_table()
    assert client.read_table(dataset).num_rows == 2 * ROWS


def test_damaged_pages_are_an_error(client: roost.Client, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": range(10_000)}), path)
    content = bytearray(path.read_bytes())
    # The header of the first page stands behind the four bytes of the magic.
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(roost.RoostError, match=r"x\.parquet"):
        client.read_table(path)


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_local_paths_become_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    assert canonical("d") == canonical(tmp_path / "d") == canonical("d/") == f"file://{tmp_path}/d/"
    assert canonical("x.parquet") == f"file://{tmp_path}/x.parquet"
    assert canonical("*.parquet") == f"file://{tmp_path}/*.parquet"
    assert canonical("/a b/100%.parquet") == "file:///a%20b/100%25.parquet"
    assert canonical("s3://b/a b") == "s3://b/a b"
    with pytest.raises(roost.InvalidRequestError, match="empty"):
        canonical("")


def test_names_that_urls_encode(client: roost.Client, tmp_path: Path) -> None:
    for number, name in enumerate(["a b", "50%", "ü#?", "x+y&z=1", "[1]"]):
        pq.write_table(pa.table({"n": [number]}), tmp_path / f"{name}.parquet")
        assert client.read_table(tmp_path / f"{name}.parquet")["n"].to_pylist() == [number]
    for meta in list_objects(str(tmp_path)).objects:
        filesystem, path = locate(meta.url)
        assert filesystem is not None
        assert os.path.exists(path)
    assert_same(client.read_table(tmp_path), pq.read_table(tmp_path))


def test_aws_variables() -> None:
    assert _aws_settings({}) == {"region": "us-east-1"}
    assert _aws_settings({"AWS_ENDPOINT_URL": "http://127.0.0.1:8333/", "AWS_REGION": "eu"}) == {
        "region": "eu",
        "scheme": "http",
        "endpoint_override": "127.0.0.1:8333",
    }
    assert _aws_settings({"AWS_SKIP_SIGNATURE": "true", "AWS_ACCESS_KEY_ID": "a"})["anonymous"] is True
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    assert _aws_settings(keys) == {"region": "us-east-1", "access_key": "a", "secret_key": "b", "session_token": "c"}
