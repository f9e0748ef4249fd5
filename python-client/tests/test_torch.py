"""`roost.torch` with PyTorch where it is installed; else with a stand-in for the names that it takes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import roost
from roost import _tensors

REAL = importlib.util.find_spec("torch") is not None
ROWS = 700
PAGE = Path(__file__).parents[2] / "docs" / "PYTORCH.md"

pytestmark = pytest.mark.filterwarnings("ignore::roost.DirectReadWarning")
needs_torch = pytest.mark.skipif(not REAL, reason="PyTorch is not installed")
needs_torchdata = pytest.mark.skipif(
    not REAL or importlib.util.find_spec("torchdata") is None, reason="torchdata is not installed"
)


def stand_in() -> types.ModuleType:
    """What `roost.torch` takes of torch, and no more."""

    class Number:
        def __init__(self) -> None:
            self.value = 0

        def share_memory_(self) -> Number:
            return self

        def fill_(self, value: int) -> None:
            self.value = value

        def item(self) -> int:
            return self.value

    data: Any = types.ModuleType("torch.utils.data")
    data.IterableDataset = type("IterableDataset", (), {})
    data.get_worker_info = lambda: None
    utils: Any = types.ModuleType("torch.utils")
    utils.data = data
    torch: Any = types.ModuleType("torch")
    torch.utils = utils
    torch.int64 = "int64"
    torch.zeros = lambda *_, **__: Number()
    torch.from_numpy = lambda array: array
    torch.distributed = types.SimpleNamespace(is_available=lambda: False)
    sys.modules.update({"torch": torch, "torch.utils": utils, "torch.utils.data": data})
    return torch


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    if REAL:
        import torch

        yield torch
        return
    yield stand_in()
    for name in [name for name in sys.modules if name.split(".")[0] == "torch" or name == "roost.torch"]:
        del sys.modules[name]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    draw = np.random.default_rng(1)
    for number in range(7):
        ids = np.arange(number * 100, number * 100 + 100)
        table = pa.table(
            {
                "id": ids,
                "label": ids % 3,
                "features": pa.FixedSizeListArray.from_arrays(pa.array(draw.random(400), pa.float32()), 4),
                "tokens": [list(range(i % 5)) for i in ids],
                "image": [bytes([i % 256]) * (i % 7) for i in ids],
            }
        )
        pq.write_table(table, directory / f"part-{number}.parquet", row_group_size=50)
    return directory


@pytest.fixture(autouse=True)
def no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_NODE", "grpc://127.0.0.1:1")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def ids(batches: Any) -> list[int]:
    return [int(row) for batch in batches for row in batch["id"]]


def test_batches_are_what_the_page_says(torch: Any, data: Path) -> None:
    from roost.torch import RoostDataset

    batch = next(iter(RoostDataset(data, batch_size=32, seed=3)))
    assert tuple(batch["features"].shape) == (32, 4)
    assert batch["label"].shape[0] == 32
    numbers = [int(i) for i in batch["id"]]
    assert batch["image"] == [bytes([i % 256]) * (i % 7) for i in numbers]
    assert [len(tokens) for tokens in batch["tokens"]] == [i % 5 for i in numbers]
    if REAL:
        assert all(isinstance(batch[name], torch.Tensor) for name in ("id", "label", "features"))
        assert batch["features"].dtype == torch.float32
        assert all(isinstance(tokens, torch.Tensor) for tokens in batch["tokens"])
    arrow = next(iter(RoostDataset(data, batch_size=32, seed=3, format="arrow")))
    assert arrow.column("id").to_pylist() == numbers
    arrays = next(iter(RoostDataset(data, batch_size=32, seed=3, format="numpy")))
    assert arrays["features"].dtype == np.float32
    arrays["features"][:] = 0
    shorter = next(iter(RoostDataset(data, ["id"], batch_size=32, seed=3, transform=lambda batch: batch["id"][:2])))
    assert [int(i) for i in shorter] == numbers[:2]


def test_the_order_is_the_plans_and_epochs_differ(torch: Any, data: Path) -> None:
    from roost.torch import RoostDataset

    dataset = RoostDataset(data, ["id"], batch_size=30, seed=3)
    client = roost.connect()
    seen = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        found = ids(dataset)
        plan = client.plan(data, ["id"], seed=3, epoch=epoch)
        assert found == [row for batch in plan.batches() for row in batch.column("id").to_pylist()]
        assert sorted(found) == list(range(ROWS))
        seen.append(found)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("batch_size", [None, 32])
def test_states_go_on(torch: Any, data: Path, batch_size: int | None) -> None:
    from roost.torch import RoostDataset

    def dataset(rank: int = 0, world: int = 1) -> Any:
        return RoostDataset(data, ["id"], batch_size=batch_size, seed=3, block=3, rank=rank, world_size=world)

    def flat(items: Any) -> list[int]:
        return [item["id"] for item in items] if batch_size is None else ids(items)

    whole = dataset()
    whole.set_epoch(4)
    expected = flat(whole)
    first = dataset()
    first.set_epoch(4)
    reading = iter(first)
    begun = [next(reading) for _ in range(5)]
    state = json.loads(json.dumps(first.state_dict()))
    again = dataset()
    again.load_state_dict(state)
    assert again.epoch == 4
    again.set_epoch(4)
    assert again.state_dict() == state
    assert flat(begun) + flat(again) == expected
    # Of another epoch it is not.
    again.load_state_dict(state)
    again.set_epoch(5)
    assert len(flat(again)) == ROWS
    # Of another number of ranks it is.
    parts = [dataset(rank, 3) for rank in range(3)]
    for part in parts:
        part.load_state_dict([state])
    left = [flat(part) for part in parts]
    assert sorted(flat(begun) + [row for part in left for row in part]) == list(range(ROWS))


def test_ranks_are_found(torch: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from roost.torch import RoostDataset

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    found = RoostDataset(data, ["id"], batch_size=9).plan()
    assert (found.rank, found.world_size) == (1, 3)
    given = RoostDataset(data, ["id"], batch_size=9, rank=0, world_size=2).plan()
    assert (given.rank, given.world_size) == (0, 2)
    with pytest.raises(roost.InvalidRequestError, match="format is 'tf'"):
        RoostDataset(data, format="tf")
    with pytest.raises(roost.InvalidRequestError, match="belong together"):
        RoostDataset(data, rank=1)


def test_nulls_are_refused_by_name() -> None:
    with pytest.raises(roost.InvalidRequestError, match="column 'n' has nulls"):
        _tensors.values("n", pa.array([1, None]))
    assert np.isnan(_tensors.values("x", pa.array([1.0, None]))).tolist() == [False, True]
    assert _tensors.values("t", pa.array([1, 2], pa.timestamp("us"))).tolist() == [1, 2]
    assert _tensors.values("b", pa.array([True, False])).tolist() == [True, False]
    nested = pa.array([[[1, 2], [3, 4]]], pa.list_(pa.list_(pa.int8(), 2), 2))
    assert _tensors.values("f", nested).tolist() == [[[1, 2], [3, 4]]]
    assert [v.tolist() for v in _tensors.values("l", pa.array([[1], [], [2, 3]]))] == [[1], [], [2, 3]]
    assert _tensors.values("l", pa.array([], pa.list_(pa.int8()))) == []
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2, 1]), pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    )
    assert _tensors.values("t", tensors).tolist() == [[[1], [2]], [[3], [4]]]
    assert _tensors.values("k", pa.array(["a", "b"]).dictionary_encode()) == ["a", "b"]


@needs_torch
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_share_the_rank(torch: Any, data: Path, workers: int) -> None:
    from torch.utils.data import DataLoader

    from roost.torch import RoostDataset

    spawned = {"multiprocessing_context": "spawn"} if workers else {}
    rows = []
    for rank in range(2):
        dataset = RoostDataset(data, ["id", "image"], batch_size=8, seed=1, rank=rank, world_size=2)
        rows += ids(DataLoader(dataset, batch_size=None, num_workers=workers, **spawned))
    assert sorted(rows) == list(range(ROWS))


@needs_torch
def test_the_loader_may_make_the_batches(torch: Any, data: Path) -> None:
    from torch.utils.data import DataLoader

    from roost.torch import RoostDataset

    dataset = RoostDataset(data, ["id", "label"], seed=1)
    batches = list(DataLoader(dataset, batch_size=10))
    assert sorted(ids(batches)) == list(range(ROWS))
    assert batches[0]["label"].shape == (10,)


@needs_torch
def test_workers_that_stay_see_the_next_epoch(torch: Any, data: Path) -> None:
    from torch.utils.data import DataLoader

    from roost.torch import RoostDataset

    dataset = RoostDataset(data, ["id"], batch_size=10, seed=1)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn", persistent_workers=True
    )
    epochs = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        epochs.append(ids(loader))
        expected = RoostDataset(data, ["id"], batch_size=10, seed=1, rank=0, world_size=1)
        expected.set_epoch(epoch)
        assert epochs[-1] == ids(expected)
    assert epochs[0] != epochs[1]


@needs_torchdata
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [False, True])
def test_stateful_loaders_go_on(torch: Any, data: Path, workers: int, rows: bool) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    from roost.torch import RoostDataset

    def loader(rank: int = 0, world: int = 1, states: Any = None) -> Any:
        dataset = RoostDataset(
            data, ["id"], batch_size=None if rows else 16, seed=1, block=2, rank=rank, world_size=world
        )
        if states is not None:
            dataset.load_state_dict(states)
        spawned = {"multiprocessing_context": "spawn"} if workers else {}
        return StatefulDataLoader(dataset, batch_size=16 if rows else None, num_workers=workers, **spawned)

    whole = ids(loader())
    assert sorted(whole) == list(range(ROWS))
    first = loader()
    reading = iter(first)
    begun = [next(reading) for _ in range(9)]
    state = first.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert ids(begun) + ids(again) == whole
    # All states together, on two ranks.
    rest = [ids(loader(rank, 2, [state])) for rank in range(2)]
    assert sorted(ids(begun) + rest[0] + rest[1]) == list(range(ROWS))


@needs_torchdata
def test_the_page_runs(data: Path, tmp_path: Path) -> None:
    """The code of the documentation, as one program, begun twice: the second run goes on from the checkpoint."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    if importlib.util.find_spec("datasets") is None:
        blocks = [block for block in blocks if "huggingface" not in block]
    code = "\n".join(blocks).replace("s3://bucket/train/", str(data))
    code = code.replace("EPOCHS = 2", "EPOCHS = int(os.environ['EPOCHS'])")
    program = tmp_path / "train.py"
    program.write_text(
        "def main():\n"
        + textwrap.indent(code, "    ")
        + "\n    print('rest', rest)\n\n\nif __name__ == '__main__':\n    main()\n"
    )
    for epochs in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(program)],
            cwd=tmp_path,
            env={**os.environ, "EPOCHS": epochs},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "× the variance of a full shuffle" in done.stdout
        # The last checkpoint is behind a step of ten of the last epoch.
        (rest,) = re.findall(r"^rest (\d+)$", done.stdout, re.M)
        assert 0 <= int(rest) < ROWS


def test_hugging_face(data: Path) -> None:
    pytest.importorskip("datasets")
    from datasets.distributed import split_dataset_by_node

    from roost.huggingface import iterable_dataset

    plan = roost.connect().plan(data, ["id", "image"], seed=1)
    expected = [row for batch in plan.batches() for row in batch.column("id").to_pylist()]
    whole = iterable_dataset(plan)
    assert [row["id"] for row in whole] == expected
    assert whole.features["image"].dtype == "binary"
    sharded = iterable_dataset(plan, num_shards=4)
    parts = [split_dataset_by_node(sharded, rank, 2) for rank in range(2)]
    rows = [[row["id"] for row in part] for part in parts]
    assert sorted(rows[0] + rows[1]) == list(range(ROWS))
    assert min(map(len, rows)) > 0
