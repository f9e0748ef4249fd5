"""Objects that change: a ticket for the old one says so, and a new plan reads the new one. Never a mixture."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same
from harness.node import Node
from harness.origin import data_request


def stale():
    return pytest.raises(pa.ArrowInvalid, match=r"(?s)precondition failed.*changed")


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of the same size, shape and name of columns, of which no value is equal."""
    paths = tmp_path / "old.parquet", tmp_path / "new.parquet"
    for seed, path in enumerate(paths):
        pq.write_table(
            data.numbers(50_000, 8, seed), path, use_dictionary=False, compression="none", write_statistics=False
        )
    assert paths[0].stat().st_size == paths[1].stat().st_size
    return paths


@pytest.fixture(params=["file", "s3", "http"])
def place(request, tmp_path: Path, node) -> tuple[Node, str, Callable[[Path], object]]:
    """A node, a URL, and how to put an object there."""
    published = tmp_path / "published"
    published.mkdir()

    def replace(source: Path) -> None:
        copy = published / "copy"
        copy.write_bytes(source.read_bytes())
        os.replace(copy, published / "x.parquet")

    if request.param == "s3":
        bucket, origin = request.getfixturevalue("bucket"), request.getfixturevalue("origin")
        return node(origin=origin), bucket.url("x.parquet"), lambda source: bucket.put("x.parquet", source)
    if request.param == "http":
        web = request.getfixturevalue("web")(published)
        return node(), f"{web.url}/x.parquet", replace
    return node(), (published / "x.parquet").as_uri(), replace


def test_replaced_before_the_first_read(place, versions):
    served, url, put = place
    put(versions[0])
    tickets = served.tickets(url)
    put(versions[1])
    with stale() as caught:
        served.get(tickets[0])
    assert url in str(caught.value)

    # The node has seen the change: no refresh is needed.
    assert_same(served.read(url, refresh=True), pq.read_table(versions[1]))


def test_replaced_when_some_columns_are_cached(place, versions):
    served, url, put = place
    put(versions[0])
    assert_same(served.read(url, ["c00", "c01"]), pq.read_table(versions[0], columns=["c00", "c01"]))
    (ticket,) = served.tickets(url)
    put(versions[1])
    with stale():
        served.get(ticket)
    assert_same(served.read(url, refresh=True), pq.read_table(versions[1]))
    assert_same(served.read(url, ["c00", "c07"]), pq.read_table(versions[1], columns=["c00", "c07"]))


def test_replaced_when_all_is_cached(place, versions):
    """The old rows are still there: a ticket for them is answered with them, or not at all."""
    served, url, put = place
    put(versions[0])
    old = pq.read_table(versions[0])
    assert_same(served.read(url), old)
    (ticket,) = served.tickets(url)
    put(versions[1])
    try:
        assert_same(served.get(ticket), old)
    except pa.ArrowInvalid as error:
        assert "changed" in str(error)  # noqa: PT017
    assert_same(served.read(url, refresh=True), pq.read_table(versions[1]))
    served.restart().recovered()
    assert_same(served.read(url), pq.read_table(versions[1]))


def test_replaced_in_the_middle_of_a_read(node, origin, bucket, versions):
    url = bucket.put("x.parquet", versions[0])
    served = node("--coalesce-gap", "0", "--piece-bytes", "64KiB", "--origin-concurrency", "1", origin=origin)
    (ticket,) = served.tickets(url)
    stream = None
    with origin.holding(lambda e: data_request(e) and passed(origin, 3)) as gate:
        stream = served.flight.do_get(ticket)
        gate.wait_for_arrivals(1)
        bucket.put("x.parquet", versions[1])
        gate.open()
        with stale():
            stream.read_all()
    assert_same(served.read(url, refresh=True), pq.read_table(versions[1]))


def passed(origin, count: int) -> bool:
    return len([e for e in origin.exchanges if e.reads_data and e.sent]) >= count


def test_listings_are_compared_again_after_a_while(node, tmp_path: Path):
    directory = data.units(tmp_path / "units", 3, size=1 << 16)
    url = directory.as_uri() + "/"
    lazy, eager = node("--revalidate", "1h"), node("--revalidate", "0s")
    old = pq.read_table(directory)
    assert_same(lazy.read(url), old)
    assert_same(eager.read(url), old)

    pq.write_table(data.numbers(100, 4, seed=5), directory / "unit-0003.parquet")
    assert_same(lazy.read(url), old)
    assert_same(lazy.read(url, refresh=True), pq.read_table(directory))
    assert_same(eager.read(url), pq.read_table(directory))

    (directory / "unit-0001.parquet").unlink()
    assert_same(eager.read(url), pq.read_table(directory))


def test_deleted(node, origin, bucket, versions):
    url = bucket.put("x.parquet", versions[0])
    served = node(origin=origin)
    (ticket,) = served.tickets(url)
    bucket.delete("x.parquet")
    with pytest.raises((KeyError, pa.ArrowInvalid), match=r"x\.parquet"):
        served.get(ticket)
    with pytest.raises(KeyError, match=r"x\.parquet"):
        served.plan(url, refresh=True)
