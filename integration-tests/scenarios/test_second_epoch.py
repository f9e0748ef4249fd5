"""What was read once is not asked of the origin again, whatever happens to the node in between."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.compare import assert_same
from harness.node import Node


@pytest.fixture
def warm(node, origin, bucket, images: Path, tpch: Path) -> tuple[Node, dict[str, Path]]:
    """A node that read two data sets."""
    lineitem = tpch / "lineitem.parquet"
    urls = {bucket.put("images/", images): images, bucket.put("tables/lineitem.parquet", lineitem): lineitem}
    served = node(origin=origin)
    for url, path in urls.items():
        assert_same(served.read(url), pq.read_table(path))
    return served, urls


def test_second_epoch_asks_nothing(warm, origin):
    served, urls = warm
    mark = origin.mark()
    for url, path in urls.items():
        assert_same(served.read(url), pq.read_table(path))
    assert [e for e in origin.since(mark) if e.reads_object] == []


@pytest.mark.parametrize("how", ["terminate", "kill9"])
def test_after_a_restart_no_data_is_asked_for(warm, origin, how: str):
    served, urls = warm
    getattr(served, how)()
    mark = origin.mark()
    served.start()
    for url, path in urls.items():
        assert_same(served.read(url), pq.read_table(path))
    assert origin.data_since(mark) == []


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_the_origin_may_be_down(warm, origin, restart: bool):
    """Tickets taken before are good while the origin answers nothing, also for a node that was restarted."""
    served, urls = warm
    tickets = {url: served.tickets(url) for url in urls}
    origin.fault(lambda _: True, times=1 << 30, status=503)
    if restart:
        served.kill9()
        served.start().recovered()
    for url, path in urls.items():
        table = pa.concat_tables([served.get(ticket) for ticket in tickets[url]])
        assert_same(table, pq.read_table(path))
