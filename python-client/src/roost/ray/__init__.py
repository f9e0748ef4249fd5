"""Ray: data sets that Roost decodes once and keeps, as Ray Data and Ray Train take them.

    import ray, roost.ray

    roost.ray.start_nodes()                                            # a node on each Ray node; or `roost serve`

    ds = roost.ray.read_parquet("s3://bucket/train/", columns=["image", "label"])       # a ray.data.Dataset

    late = roost.ray.tickets("s3://bucket/train/", seed=7)             # its rows are tickets; the data stays on disk
    late.map_batches(lambda rows: map(train, roost.ray.fetch(rows)))   # whoever consumes a ticket maps its rows

    shard = ray.train.get_dataset_shard("train")                       # of a data set of tickets
    for batch in roost.ray.iter_batches(shard, batch_size=256):        # the plan's exact order, with `state_dict`
        ...

The page "Ray" of Roost's documentation goes from `pip install` to a training loop with checkpoints. Ray 2.50 or newer.
"""

try:
    import ray.data  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("roost.ray needs Ray: pip install 'roost[ray]'", name=error.name) from error

from roost.ray._batches import iter_batches
from roost.ray._counts import statistics
from roost.ray._read import read_parquet, tickets
from roost.ray._start import Nodes, start_nodes
from roost.ray._tickets import fetch

__all__ = ["Nodes", "fetch", "iter_batches", "read_parquet", "start_nodes", "statistics", "tickets"]
