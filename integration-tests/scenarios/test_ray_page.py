"""The page about Ray, as one program with a real cluster: its training loop goes on after a crash as if nothing was."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.node import ROOT, clean_environment, executable

roost = pytest.importorskip("roost", reason="the package of python-client is not installed")
pytest.importorskip("ray.train", reason="Ray is not installed")

PAGE = ROOT / "docs" / "RAY.md"
OBJECTS, ROWS = 8, 500

# Once, on rank 0, in the middle of the first epoch.
CRASH = """
            if step == 25 and ray.train.get_context().get_world_rank() == 0:
                try:
                    pathlib.Path({flag!r}).touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    import os

                    os._exit(1)
"""


@pytest.fixture
def data(tmp_path: Path) -> str:
    directory = tmp_path / "train"
    directory.mkdir()
    random = np.random.default_rng(3)
    for number in range(OBJECTS):
        features = random.standard_normal((ROWS, 4))
        label = features @ [1.0, 2.0, 3.0, 4.0]
        lists = pa.FixedSizeListArray.from_arrays(features.reshape(-1), 4)
        pq.write_table(pa.table({"features": lists, "label": label}), directory / f"part-{number}.parquet")
    return directory.as_uri() + "/"


def weights_without_a_crash(data: str) -> np.ndarray:
    """Of rank 0, computed here."""
    weights = np.zeros(4)
    for epoch in range(2):
        plan = roost.connect().plan(data, ["features", "label"], seed=7, epoch=epoch, rank=0, world_size=2, even="drop")
        for batch in plan.batches(batch_size=64):
            features = batch["features"].flatten().to_numpy().reshape(-1, 4)
            weights -= 0.1 * features.T @ (features @ weights - batch["label"].to_numpy()) / len(features)
    return weights


@pytest.mark.filterwarnings("ignore::roost.DirectReadWarning")
def test_the_page_runs_and_training_survives_a_crash(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    saving = "                save(epoch, weights, batches.state_dict())\n"
    assert saving in program
    program = program.replace(saving, saving + CRASH.format(flag=str(tmp_path / "crashed")))
    for written, meant in (("s3://bucket/train/", data), ("/shared/runs", str(tmp_path / "runs"))):
        assert written in program
        program = program.replace(written, meant)
    if importlib.util.find_spec("torch") is None:
        # The same trainer without PyTorch's process group, of which the page makes no use.
        trainer = "from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as TorchTrainer"
        program = program.replace("from ray.train.torch import TorchTrainer", trainer)
    program += "\nassert rows == 4000, rows\nassert result.error is None\nassert longest > 1\n"
    (tmp_path / "page.py").write_text(program)

    environment = clean_environment() | {
        "HOME": str(tmp_path),
        "ROOST_BIN": str(executable()),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert (tmp_path / "crashed").exists()
    assert "'direct_tickets': 0" in done.stdout

    # Named by time.
    last = max(path for path in (tmp_path / "runs" / "example").glob("checkpoint_2*") if path.is_dir())
    saved = [json.loads(path.read_text()) for path in sorted(last.glob("rank-*.json"))]
    assert [rank["epoch"] for rank in saved] == [2, 2]
    monkeypatch.setenv("ROOST_NODE", "grpc://127.0.0.1:1")
    np.testing.assert_allclose(saved[0]["weights"], weights_without_a_crash(data), rtol=1e-9)
