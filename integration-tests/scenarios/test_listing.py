"""Which objects a URL names: one, a prefix's, a glob's; hidden and empty ones are skipped."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from harness.compare import assert_same
from harness.node import Node, endpoint_info


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files whose single value tells which they are, among what is to be skipped."""
    root = tmp_path / "tree"
    for name in (
        "a.parquet",
        "b.parquet",
        "part-1.parquet",
        "part-10.parquet",
        "part-2.parquet",
        "no suffix",
        "sub/c.parquet",
        "sub/deep/d.parquet",
        "with space/é#%.parquet",
        "_hidden.parquet",
        ".hidden.parquet",
        "_temporary/0/x.parquet",
        ".staging/y.parquet",
        "sub/_z.parquet",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"name": [name]}), path)
    (root / "_SUCCESS").touch()
    (root / "sub/.crc").write_bytes(b"x")
    return root


@pytest.fixture(params=["file", "s3"])
def place(request, node, tree: Path) -> tuple[Node, str]:
    if request.param == "file":
        return node(), tree.as_uri() + "/"
    bucket = request.getfixturevalue("bucket")
    # A marker of a directory, as consoles make them.
    bucket.filesystem.create_dir(f"{bucket.name}/tree/sub")
    return node(origin=request.getfixturevalue("origin")), bucket.put("tree/", tree)


def names(served: Node, url: str) -> list[str]:
    return served.read(url).column("name").to_pylist()


def test_prefix(place, tree: Path):
    served, url = place
    expected = pq.read_table(tree)
    assert "_hidden.parquet" not in expected.column("name").to_pylist()
    assert_same(served.read(url), expected)
    assert names(served, url + "sub/") == ["sub/c.parquet", "sub/deep/d.parquet"]


def test_prefix_without_its_slash(place, tree: Path):
    served, url = place
    assert_same(served.read(url.rstrip("/")), pq.read_table(tree))


def test_one_object(place):
    served, url = place
    assert names(served, url + "a.parquet") == ["a.parquet"]
    assert names(served, url + "no%20suffix") == ["no suffix"]
    assert names(served, url + "_hidden.parquet") == ["_hidden.parquet"], "named by the user, it is meant"
    assert names(served, url + "with%20space/%C3%A9%23%25.parquet") == ["with space/é#%.parquet"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("part-*.parquet", ["part-1.parquet", "part-10.parquet", "part-2.parquet"]),
        ("part-?.parquet", ["part-1.parquet", "part-2.parquet"]),
        ("[ab].parquet", ["a.parquet", "b.parquet"]),
        ("*/*.parquet", ["sub/c.parquet", "with space/é#%.parquet"]),
        ("sub/**/*.parquet", ["sub/c.parquet", "sub/deep/d.parquet"]),
        ("**/d.parquet", ["sub/deep/d.parquet"]),
    ],
)
def test_glob(place, glob: str, expected: list[str]):
    served, url = place
    assert names(served, url + glob) == expected


def test_objects_of_no_bytes(node, origin, bucket, tree: Path):
    """What an upload that never began leaves: it has no rows, and the others' are read. Named alone it is an error."""
    url = bucket.put("tree/", tree)
    nothing = bucket.put("tree/nothing.parquet", b"")
    served = node(origin=origin)
    assert_same(served.read(url), pq.read_table(tree))
    with pytest.raises((pa.ArrowException, flight.FlightError), match=r"nothing\.parquet"):
        served.plan(nothing)


@pytest.mark.parametrize("missing", ["none.parquet", "none/", "none-*.parquet", "_temporary/none/"])
def test_nothing_there(place, missing: str):
    served, url = place
    with pytest.raises(KeyError, match="none"):
        served.plan(url + missing)


def test_a_prefix_of_hidden_objects_alone(node, tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/_x.parquet").touch()
    with pytest.raises(KeyError, match="/d/"):
        node().plan((tmp_path / "d").as_uri() + "/")


def test_many_objects(node, origin, bucket, tmp_path: Path):
    """More than one page of an S3 listing holds."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    content = path.read_bytes()
    for number in range(1100):
        bucket.put(f"many/{number:05}.parquet", content)
    served = node(origin=origin)
    info = served.info(bucket.url("many/"))
    pieces = [piece.url for endpoint in info.endpoints for piece in endpoint_info(endpoint).pieces]
    assert pieces == [bucket.url(f"many/{number:05}.parquet") for number in range(1100)]
    assert info.total_records == 1100
