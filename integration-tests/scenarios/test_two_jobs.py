"""Two jobs on two data sets share a cache that is too small for either: each gets its fair share, and no more."""

import random
from pathlib import Path

import pytest

from harness import data
from harness.node import Node

CAPACITY = 48 << 20


def epoch(served: Node, url: str, job: str, seed: int) -> None:
    tickets = served.tickets(url, job=job)
    random.Random(seed).shuffle(tickets)
    for ticket in tickets:
        served.get(ticket)


def held(served: Node) -> dict[str, int]:
    return {job.name: job.held_bytes for job in served.stat().jobs}


@pytest.fixture
def served(node) -> Node:
    return node("--capacity", str(CAPACITY), "--job-grace", "1h")


def test_a_newcomer_gets_half(served: Node, tmp_path: Path):
    first = data.units(tmp_path / "first", 80, seed=1).as_uri() + "/"
    second = data.units(tmp_path / "second", 80, seed=2).as_uri() + "/"
    epoch(served, first, "first", 0)
    assert held(served)["first"] > 0.9 * CAPACITY

    for seed in range(4):
        epoch(served, second, "second", seed)
        epoch(served, first, "first", seed)

    shares = held(served)
    assert shares["second"] > 0.4 * CAPACITY, shares
    assert shares["first"] > 0.4 * CAPACITY, shares
    assert sum(shares.values()) <= CAPACITY
    before = served.stat()
    epoch(served, second, "second", 9)
    assert served.stat().hits - before.hits > 0.4 * (CAPACITY >> 20), "the share stays while both read"


def test_a_small_newcomer_takes_what_it_needs(served: Node, tmp_path: Path):
    first = data.units(tmp_path / "first", 80, seed=1).as_uri() + "/"
    small = data.units(tmp_path / "small", 8, seed=2).as_uri() + "/"
    epoch(served, first, "first", 0)

    for seed in range(3):
        epoch(served, small, "small", seed)
        epoch(served, first, "first", seed)

    before = served.stat()
    epoch(served, small, "small", 9)
    assert served.stat().hits - before.hits == 8, "all of it is cached"
    shares = held(served)
    assert shares["first"] > CAPACITY - (12 << 20), f"the first gave up no more than was asked for: {shares}"


def test_two_jobs_on_one_data_set_hold_it_once(served: Node, tmp_path: Path):
    url = data.units(tmp_path / "units", 32).as_uri() + "/"
    epoch(served, url, "one", 0)
    before = served.stat()
    epoch(served, url, "two", 1)
    after = served.stat()
    assert (after.hits - before.hits, after.misses - before.misses) == (32, 0)
    assert after.used_bytes == before.used_bytes


def test_what_an_ended_job_held_makes_room(node, tmp_path: Path):
    first = data.units(tmp_path / "first", 80, seed=1).as_uri() + "/"
    second = data.units(tmp_path / "second", 32, seed=2).as_uri() + "/"
    served = node("--capacity", str(CAPACITY), "--job-grace", "0s")
    epoch(served, first, "first", 0)
    served.wait(lambda: served.stat().held_bytes == 0, "the first job's grace is over")
    for seed in range(2):
        epoch(served, second, "second", seed)
    before = served.stat()
    epoch(served, second, "second", 9)
    assert served.stat().hits - before.hits == 32
