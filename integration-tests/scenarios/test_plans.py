"""Plans: projections, limits, pages, and what they tell about themselves."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same
from harness.node import Node, endpoint_info, plan_info


@pytest.fixture
def served(node) -> Node:
    return node()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return data.units(tmp_path / "units", 25, size=1 << 16)


def url_of(directory: Path) -> str:
    return directory.as_uri() + "/"


def test_facts(served: Node, units: Path):
    expected = pq.read_table(units)
    info = served.plan(url_of(units), ["c02", "c00"], job="mine")
    facts = plan_info(info)
    assert (facts.rows, facts.tickets, facts.objects, facts.row_groups) == (expected.num_rows, 25, 25, 25)
    assert facts.job == "mine"
    assert facts.url == url_of(units)
    assert not facts.HasField("next")
    assert info.total_records == expected.num_rows
    assert facts.bytes == pytest.approx(expected.nbytes // 2, rel=0.2)
    assert info.schema.names == ["c02", "c00"]
    for number, endpoint in enumerate(info.endpoints):
        told = endpoint_info(endpoint)
        (piece,) = told.pieces
        assert piece.url == f"{url_of(units)}unit-{number:04}.parquet"
        assert (piece.row_group, piece.row_groups, piece.rows, piece.rows_cut) == (0, 1, 2048, 0)
        assert told.rows == 2048


def test_columns_in_any_order(served: Node, units: Path):
    expected = pq.read_table(units)
    for columns in (["c03", "c01"], ["c01"], ["c03", "c02", "c01", "c00"]):
        assert_same(served.read(url_of(units), columns), expected.select(columns))


@pytest.mark.parametrize("columns", [["c00", "nonsense"], [""], ["C00"]])
def test_columns_that_are_not_there(served: Node, units: Path, columns: list[str]):
    with pytest.raises((pa.ArrowInvalid, KeyError), match=columns[-1]):
        served.plan(url_of(units), columns)


def test_a_column_asked_for_twice(served: Node, units: Path):
    """Arrow allows two columns of one name, readers rarely do: refused, as it is mostly a mistake."""
    with pytest.raises(pa.ArrowInvalid, match="c00"):
        served.plan(url_of(units), ["c00", "c01", "c00"])


@pytest.mark.parametrize("limit", [0, 1, 2047, 2048, 2049, 30_000, 51_199, 51_200, 1 << 40])
def test_limit(served: Node, units: Path, limit: int):
    expected = pq.read_table(units).slice(0, limit)
    info = served.plan(url_of(units), limit=limit)
    assert plan_info(info).rows == expected.num_rows
    assert sum(endpoint_info(e).rows for e in info.endpoints) == expected.num_rows
    assert_same(served.read_plan(info), expected)
    # What was read in part is cached whole or not at all.
    assert_same(served.read(url_of(units)), pq.read_table(units))


def test_limit_within_a_run_of_small_row_groups(served: Node, tmp_path: Path):
    path = data.small_groups(tmp_path / "small.parquet")
    expected = pq.read_table(path)
    for limit in (499, 500, 501, 70_001):
        assert_same(served.read(path.as_uri(), limit=limit), expected.slice(0, limit))
        assert_same(served.read(path.as_uri(), ["word"], limit=limit), expected.select(["word"]).slice(0, limit))


@pytest.mark.parametrize("count", [1, 7, 25, 100])
def test_pages(served: Node, units: Path, count: int):
    url = url_of(units)
    whole = served.plan(url)
    position, tickets = 0, []
    while True:
        page = served.plan(url, from_=position, count=count)
        facts = plan_info(page)
        assert (facts.rows, facts.tickets) == (25 * 2048, 25), "facts are the whole plan's on each page"
        assert facts.fingerprint == plan_info(whole).fingerprint
        assert len(page.endpoints) == min(count, 25 - position)
        tickets += page.endpoints
        if not facts.HasField("next"):
            break
        assert facts.next == position + count
        position = facts.next
    pieces = [endpoint_info(e).pieces[0].url for e in tickets]
    assert pieces == [endpoint_info(e).pieces[0].url for e in whole.endpoints]


def test_a_page_behind_the_end(served: Node, units: Path):
    page = served.plan(url_of(units), from_=25)
    assert list(page.endpoints) == []
    assert not plan_info(page).HasField("next")


def test_fingerprint_tells_plans_apart(served: Node, units: Path):
    def fingerprint(columns=None, **fields) -> bytes:
        return plan_info(served.plan(url_of(units), columns, **fields)).fingerprint

    whole = fingerprint()
    assert whole
    assert whole == fingerprint(job="another"), "who reads doesn't change what is read"
    others = [fingerprint(["c00"]), fingerprint(["c01"]), fingerprint(limit=5), fingerprint(["c00", "c01"])]
    assert len({whole, *others}) == 5
    pq.write_table(data.numbers(10, 4), units / "unit-9999.parquet")
    assert fingerprint(refresh=True) != whole


def test_unknown_fields_are_refused(served: Node, units: Path):
    """A later version's field could change what is read: better no answer than a wrong one."""
    from google.protobuf.any_pb2 import Any
    from pyarrow import flight

    from harness.node import plan_request

    message = Any()
    message.Pack(plan_request(url_of(units)))
    message.value += b"\xa2\x06\x03a>1"  # field 100, of three bytes
    with pytest.raises((pa.ArrowInvalid, NotImplementedError)):
        served.flight.get_flight_info(flight.FlightDescriptor.for_command(message.SerializeToString()))


def test_jobs_get_names(served: Node, units: Path):
    """Made up where the reader gives none; readers of other rows are another job."""
    made_up = plan_info(served.plan(url_of(units))).job
    assert made_up
    assert made_up != plan_info(served.plan(f"{url_of(units)}unit-0000.parquet")).job
    assert plan_info(served.plan(url_of(units), job="mine")).job == "mine"
