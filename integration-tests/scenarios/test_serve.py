"""The node as a process: its start, its doors, its end."""

import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same
from harness.node import READY, Node, clean_environment, cli, executable
from harness.origin import data_request


def test_one_line_on_standard_output(tmp_path: Path):
    process = subprocess.Popen(
        [executable(), "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean_environment() | {"HOME": str(tmp_path)},
    )
    assert process.stdout
    line = process.stdout.readline()
    assert READY.match(line.rstrip("\n")), line
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert rest == ""
    assert process.returncode == 0
    assert (tmp_path / ".cache/roost").is_dir(), "with no configuration the cache lies in the home directory"


def test_doors(node):
    served: Node = node()
    assert served.get_http("/healthz")[0] == 200
    assert served.get_http("/readyz")[0] == 200
    assert served.get_http("/nonsense")[0] == 404
    status, page = served.get_http("/")
    assert status == 200
    assert "roost" in page.lower()
    metrics = served.metrics()
    assert metrics["roost_cache_hits_total"] == 0
    assert any(name.startswith("roost_build_info") for name in metrics)


def test_metrics_agree_with_stat(node, images: Path):
    served: Node = node()
    for _ in range(2):
        served.read(images.as_uri() + "/")
    metrics, stat = served.metrics(), served.stat()
    assert (stat.hits, stat.misses) == (4, 4)
    assert metrics["roost_cache_hits_total"] == stat.hits
    assert metrics["roost_cache_misses_total"] == stat.misses
    assert metrics["roost_cache_used_bytes"] == stat.used_bytes
    assert metrics["roost_cache_fragments"] == stat.fragments
    assert metrics["roost_served_rows_total"] == stat.served_rows == 2 * pq.read_table(images, columns=[]).num_rows
    assert metrics["roost_streams_active"] == 0


def test_http_can_be_off(tmp_path: Path):
    process = subprocess.Popen(
        [executable(), "serve", "--listen", "127.0.0.1:0", "--http", "off", "--cache-dir", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    )
    assert process.stdout
    line = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert line.startswith("roost: serving grpc://127.0.0.1:")
    assert process.returncode == 0


def test_sigterm_lets_readers_finish(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    served: Node = node(origin=origin)
    (ticket, *_) = served.tickets(url)
    with origin.holding(data_request) as gate:
        stream = served.connect().do_get(ticket)
        gate.wait_for_arrivals(1)
        process = served.process
        assert process
        process.send_signal(signal.SIGTERM)
        served.wait(lambda: served_ready(served) != 200, "the node says that it is no longer ready")
        gate.open()
        assert_same(stream.read_all(), pq.read_table(images / "images-000.parquet"))
    assert process.wait(timeout=60) == 0


def served_ready(served: Node) -> int:
    try:
        return served.get_http("/readyz")[0]
    except OSError:
        return 0


def test_sigterm_does_not_wait_for_ever(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    served: Node = node("--drain-timeout", "200ms", origin=origin)
    (ticket, *_) = served.tickets(url)
    with origin.holding(data_request) as gate:
        stream = served.connect().do_get(ticket)
        gate.wait_for_arrivals(1)
        assert served.terminate() == 0
        del stream


def test_serves_before_recovery_has_finished(node, tmp_path: Path):
    """The first answer after a start doesn't wait for the directories to be read; afterwards all is there."""
    directory = data.units(tmp_path / "units", 200, size=1 << 14)
    url = directory.as_uri() + "/"
    expected = pq.read_table(directory)
    served: Node = node()
    served.warm(url)
    served.kill9()
    served.start()
    assert_same(served.read(url, threads=4), expected)
    served.recovered()
    assert_same(served.read(url, threads=4), expected)
    assert served.stat().fragments == 200, "nothing was cached twice"
    assert served.disk() <= served.stat().used_bytes + (1 << 20)


def test_settings_from_file_environment_and_flags(node, tmp_path: Path):
    """Flags win over the environment, which wins over the file."""
    config = tmp_path / "roost.toml"
    config.write_text('memory = "100MiB"\nmax-streams = 7\n')
    served: Node = node("--config", str(config))
    assert served.stat().memory_limit_bytes == 100 << 20
    served.environment = {"ROOST_MEMORY": "200MiB"}
    assert served.restart().stat().memory_limit_bytes == 200 << 20
    served.flags = [*served.flags, "--memory", "300MiB"]
    assert served.restart().stat().memory_limit_bytes == 300 << 20


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--listen 0.0.0.0:0", "insecure"),
        ("--memory 1MiB", "memory"),
        ("--capacity nonsense", "capacity"),
        ("--config /no/such/file.toml", "/no/such/file.toml"),
        ("--nonsense", "nonsense"),
        ("--allow nonsense", "allow"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, flags: str, words: str):
    listen = [] if "--listen" in flags else ["--listen", "127.0.0.1:0"]
    done = cli("serve", *listen, "--http", "off", *flags.split(), HOME=str(tmp_path), timeout=30)
    assert done.code != 0
    assert words in done.err
    assert done.out == ""


def test_a_port_that_is_taken(node, tmp_path: Path):
    served: Node = node()
    done = cli("serve", "--listen", served.address, "--http", "off", "--cache-dir", str(tmp_path / "other"), timeout=30)
    assert done.code != 0
    assert served.address in done.err


def test_more_streams_than_allowed(node, origin, bucket, images: Path):
    """One too many is told to come back, at once, and the others go on."""
    url = bucket.put("images/", images)
    served: Node = node("--max-streams", "2", origin=origin)
    tickets = served.tickets(url)
    with origin.holding(data_request) as gate:
        streams = [served.connect().do_get(ticket) for ticket in tickets[:2]]
        served.wait(lambda: served.metrics()["roost_streams_active"] == 2, "both streams are open")
        with pytest.raises(Exception, match=r"max-streams|streams"):
            served.get(tickets[2])
        gate.open()
        assert sum(stream.read_all().num_rows for stream in streams) == 120
    assert served.get(tickets[2]).num_rows == 60
