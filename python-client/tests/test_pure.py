"""The decisions that need no I/O: schemas, partitions, prefetching, progress."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import io
import pkgutil
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

import roost
from roost import _ahead, _hive, _progress
from roost._unify import unify, wider


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint32(), pa.int16(), pa.int64()),
        (pa.uint64(), pa.int64(), None),
        (pa.float16(), pa.float64(), pa.float64()),
        (pa.int32(), pa.float64(), None),
        (pa.null(), pa.string(), pa.string()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.binary(), None),
        (pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.string()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("ms"), pa.timestamp("ms", "UTC"), None),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), pa.list_(pa.int16())),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int16(), 3), None),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int64())]), pa.struct([("a", pa.int64())])),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())]), None),
    ],
)
def test_wider(a: pa.DataType, b: pa.DataType, both: pa.DataType | None) -> None:
    assert wider(a, b) == both
    assert wider(b, a) == both


def test_unify() -> None:
    first = pa.schema([pa.field("a", pa.int8(), nullable=False), ("b", pa.string())], metadata={"k": "first"})
    second = pa.schema([pa.field("c", pa.int8(), nullable=False), ("b", pa.string())], metadata={"k": "second"})
    found = unify([("0", first), ("1", first), ("2", second)], [pa.field("p", pa.int32()), pa.field("b", pa.int32())])
    expected = [("a", pa.int8()), ("b", pa.string()), ("c", pa.int8()), ("p", pa.int32())]
    assert found.equals(pa.schema(expected, metadata={"k": "first"}), check_metadata=True)
    with pytest.raises(roost.UnsupportedError, match="two columns are named 'x'"):
        unify([("u", pa.schema([("x", pa.int8()), ("x", pa.int8())]))])


def test_hive() -> None:
    base = "s3://b/t/"
    url = "s3://b/t/year=2024/name=a%2520b/x=__HIVE_DEFAULT_PARTITION__/plain/p.parquet"
    assert _hive.pairs(base, url) == [("year", "2024"), ("name", "a b"), ("x", None)]
    assert _hive.pairs(base, "s3://other/year=1/p") == []
    fields = _hive.fields(base, [url, "s3://b/t/year=x/p"])
    assert [str(field.type.value_type) for field in fields] == ["string", "string", "int32"]
    column = _hive.column(base, url, fields[1], 3)
    assert column is not None
    assert column.to_pylist() == ["a b"] * 3
    assert _hive.column(base, "s3://b/t/p", fields[0], 3) is None


# --- pulling ahead ----------------------------------------------------------------------------------------------------


def batch(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": [number]})


def numbers(batches: Iterator[pa.RecordBatch]) -> list[int]:
    return [one["n"][0].as_py() for one in batches]


def test_order_is_kept_though_the_first_is_last() -> None:
    others = threading.Semaphore(0)

    def source(number: int) -> Iterator[pa.RecordBatch]:
        if number == 0:
            for _ in range(3):
                assert others.acquire(timeout=30)
        yield batch(10 * number)
        yield batch(10 * number + 1)
        others.release()

    sources = [lambda n=n: source(n) for n in range(4)]
    assert numbers(_ahead.in_order(sources, workers=4)) == [0, 1, 10, 11, 20, 21, 30, 31]


def test_an_error_comes_in_its_place() -> None:
    def source(number: int) -> Iterator[pa.RecordBatch]:
        yield batch(number)
        if number == 1:
            raise roost.CorruptDataError("here")

    found = _ahead.in_order([lambda n=n: source(n) for n in range(9)], workers=2)
    assert [next(found)["n"][0].as_py(), next(found)["n"][0].as_py()] == [0, 1]
    with pytest.raises(roost.CorruptDataError, match="here"):
        next(found)


def test_the_window_and_the_buffer_hold_threads_back() -> None:
    begun: list[int] = []
    given: list[int] = []

    def source(number: int) -> Iterator[pa.RecordBatch]:
        begun.append(number)
        for _ in range(50):
            given.append(number)
            yield batch(number)

    # A buffer of one byte: a thread that has put one batch waits until it is taken.
    found = _ahead.in_order([lambda n=n: source(n) for n in range(9)], workers=8, window=3, buffer=1)
    assert numbers(found) == [number for number in range(9) for _ in range(50)]
    found = _ahead.in_order([lambda n=n: source(n) for n in range(9)], workers=8, window=3, buffer=1)
    begun.clear()
    given.clear()
    next(found)
    # Only the window is pulled, and of each source what lies in the buffer, in the thread's hand, and was taken.
    assert max(begun) <= 2
    assert all(given.count(number) <= 3 for number in range(3))
    found.close()  # type: ignore[attr-defined]


def test_the_interpreter_can_end_while_batches_wait() -> None:
    def source(number: int) -> Iterator[pa.RecordBatch]:
        for _ in range(50):
            yield batch(number)

    others = set(_ahead._running)
    found = _ahead.in_order([lambda n=n: source(n) for n in range(4)], workers=2, window=2, buffer=1)
    next(found)
    (pull,) = set(_ahead._running) - others
    # What happens first at the end: a thread that is cut off later would keep the lock.
    _ahead._stop_all()
    assert not any(thread.is_alive() for thread in pull.threads)
    # The generator is closed last, when nobody may be left to give the lock back.
    with pull.changed:
        closing = threading.Thread(target=found.close, daemon=True)  # type: ignore[attr-defined]
        closing.start()
        closing.join(timeout=30)
        assert not closing.is_alive()


def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent() -> None:
    pull = _ahead._Pull([lambda: iter([batch(1), batch(2)])], None, None)
    assert pull._next() is not None
    pull.slots[0].batches.append(batch(1))
    pull.orphan()
    assert pull.take() is not None
    with pytest.raises(roost.UnsupportedError, match="begin anew"):
        pull.take()


def test_nothing_to_pull() -> None:
    assert list(_ahead.in_order([], workers=4)) == []


# --- progress ---------------------------------------------------------------------------------------------------------


def state(done: int) -> roost.WarmProgress:
    return roost.WarmProgress(4, done, 4 << 20, done << 20, 400, 100 * done, 0, 0, 0, 0)


def test_text_bar() -> None:
    out = io.StringIO()
    now = [0.0]
    bar = _progress.TextBar("warming x", out, clock=lambda: now[0])
    for done, at in ((1, 1.0), (2, 1.05), (3, 3.0), (4, 4.0)):
        now[0] = at
        bar.update(state(done))
    bar.close()
    lines = [line.strip() for line in out.getvalue().rstrip("\n").split("\r")[1:]]
    assert lines == [
        "warming x [#####---------------]  25% 1.0 MiB, 100 rows, 1.0 MiB/s, 0:03 left",
        "warming x [###############-----]  75% 3.0 MiB, 300 rows, 1.0 MiB/s, 0:01 left",
        "warming x [####################] 100% 4.0 MiB, 400 rows, 1.0 MiB/s",
        "warming x [####################] 100% 4.0 MiB, 400 rows, 1.0 MiB/s",
    ]
    assert out.getvalue().endswith("\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("tqdm", [True, False])
def test_a_bar_only_where_a_person_waits(monkeypatch: pytest.MonkeyPatch, tqdm: bool) -> None:
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    for terminal, progress, shown in (
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
    ):
        out = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr("sys.stderr", out)
        bar = _progress.make_bar("warming x", progress)
        bar.update(state(2))
        bar.update(state(4))
        bar.close()
        assert ("warming x" in out.getvalue()) is shown
        assert ("100%" in out.getvalue()) is shown


def test_the_examples_run() -> None:
    tried = 0
    for module in pkgutil.iter_modules(roost.__path__, "roost."):
        extra = module.name.removeprefix("roost.")
        if extra in ("ray", "torch") and importlib.util.find_spec(extra) is None:
            continue
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0
        tried += result.attempted
    assert tried > 5
