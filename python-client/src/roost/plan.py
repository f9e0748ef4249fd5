"""Plans and tickets: what is to be read, in which order, and where it lies. Plain data that pickles small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from roost.client import Client

__all__ = ["Piece", "Plan", "Ticket"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a ticket: consecutive row groups of one object."""

    #: The object's URL.
    url: str
    #: Ordinal of the first Parquet row group in the object, and how many there are in this piece.
    row_group: int
    row_groups: int
    #: Rows of these row groups, and how many of them, at the end, the plan's limit leaves out.
    rows: int
    rows_cut: int = 0

    @property
    def num_rows(self) -> int:
        """Rows that are read."""
        return self.rows - self.rows_cut

    def __str__(self) -> str:
        last = self.row_group + self.row_groups - 1
        return f"{self.url}#rg{self.row_group}" + (f"-{last}" if last > self.row_group else "")


class PackedSchema:
    """A schema that pickles as its IPC message, and but once for all the tickets of a plan that share it."""

    __slots__ = ("_bytes", "schema")

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._bytes: bytes | None = None

    @classmethod
    def from_bytes(cls, message: bytes) -> PackedSchema:
        """The schema of an IPC message."""
        return cls(pa.ipc.read_schema(pa.py_buffer(message)))

    def to_bytes(self) -> bytes:
        """The schema as an IPC message."""
        if self._bytes is None:
            self._bytes = self.schema.serialize().to_pybytes()
        return self._bytes

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return PackedSchema.from_bytes, (self.to_bytes(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedSchema) and self.schema.equals(other.schema, check_metadata=True)

    def __hash__(self) -> int:
        return hash(tuple(self.schema.names))


@dataclass(frozen=True, slots=True, repr=False)
class Ticket:
    """An order to read some rows, complete in itself: any node can serve it, and it can be read from the origin.

    Pass it to `Client.read` or `Client.read_batches`, in this process or, pickled, in another one:

        table = roost.connect().read(ticket)
    """

    #: What a node is shown; empty when the plan was made without a node.
    signed: bytes
    #: The data set's URL.
    dataset: str
    #: What is read, in order.
    pieces: tuple[Piece, ...]
    #: Rows of the ticket.
    num_rows: int
    #: Decoded bytes, estimated.
    nbytes: int
    #: Addresses of nodes that serve the ticket best, best first; the client's own addresses come after them.
    locations: tuple[str, ...]
    packed_schema: PackedSchema

    @property
    def schema(self) -> pa.Schema:
        """The schema of what is read: the columns asked for, in the order asked for."""
        return self.packed_schema.schema

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are read, in order."""
        return tuple(self.schema.names)

    def __str__(self) -> str:
        return ", ".join(map(str, self.pieces)) or "nothing"

    def __repr__(self) -> str:
        direct = "" if self.signed else ", read from the origin"
        return f"<roost.Ticket {self}: {self.num_rows:,} rows, ~{human_bytes(self.nbytes)}{direct}>"


class Plan:
    """An ordered list of tickets that together are a data set, or the columns and rows of it that were asked for.

    Made by `Client.plan`. Its length is the number of tickets; iterating gives them. A plan pickles small (some hundred
    bytes a ticket) and reads in any process that reaches the nodes or the origin.

    Example:
        >>> plan = roost.connect().plan("s3://bucket/train/", columns=["image", "label"])   # doctest: +SKIP
        >>> for batch in plan.batches():                                                    # doctest: +SKIP
        ...     train(batch)
    """

    def __init__(
        self,
        client: Client,
        url: str,
        schema: pa.Schema,
        tickets: tuple[Ticket, ...],
        *,
        fingerprint: str,
        num_rows: int,
        nbytes: int,
        job: str = "",
    ) -> None:
        self._client = client
        self._schema = tickets[0].packed_schema if tickets else PackedSchema(schema)
        #: The data set's canonical URL.
        self.url = url
        #: The tickets, in the order of the data.
        self.tickets = tickets
        #: Hash (hexadecimal) of everything that determines the plan: objects, columns, limit.
        self.fingerprint = fingerprint
        #: Rows of the whole plan.
        self.num_rows = num_rows
        #: Decoded bytes of the columns asked for, estimated.
        self.nbytes = nbytes
        #: The job whose reading keeps the data in the cache; empty when no node made the plan.
        self.job = job

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch, and of the table."""
        return self._schema.schema

    @property
    def direct(self) -> bool:
        """Whether the plan was made without a node, so that it is read from the origin."""
        return any(not ticket.signed for ticket in self.tickets)

    def batches(self, prefetch: int = 2) -> Iterator[pa.RecordBatch]:
        """The rows as record batches, in the plan's order.

        Args:
            prefetch: how many tickets are pulled ahead of the one being given out, each by a thread of its own that
                stops for you after some 32 MiB. 0 reads only when asked, without threads.

        Raises:
            StalePlanError: an object changed since the plan was made.
            RoostError: a node's answer, or the origin's; never are rows left out silently.
        """
        return self._client._plan_batches(self, prefetch)

    def to_table(self, threads: int | None = None) -> pa.Table:
        """Reads everything, several tickets at a time; the rows are in the plan's order.

        Args:
            threads: how many tickets are pulled at a time; by default as many as suits this machine.

        Returns:
            A table of `num_rows` rows with `schema`.

        Raises:
            StalePlanError: an object changed since the plan was made.
            RoostError: a node's answer, or the origin's.
        """
        return self._client._plan_table(self, threads)

    def __len__(self) -> int:
        return len(self.tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self.tickets)

    def __repr__(self) -> str:
        names = self.schema.names
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        columns = f"{len(names)} column{'' if len(names) == 1 else 's'}" + (f" ({shown})" if names else "")
        tickets = f"{len(self):,} ticket{'' if len(self) == 1 else 's'}"
        size = f"{self.num_rows:,} rows, ~{human_bytes(self.nbytes)}"
        direct = ", read from the origin" if self.direct else ""
        return f"<roost.Plan {self.url}: {tickets}, {size}, {columns}{direct}>"


def human_bytes(number: float) -> str:
    """
    >>> human_bytes(0), human_bytes(1536), human_bytes(3 * 2**30)
    ('0 B', '1.5 KiB', '3.0 GiB')
    """
    if number < 1024:
        return f"{number:.0f} B"
    units = ["KiB", "MiB", "GiB", "TiB", "PiB"]
    number /= 1024
    while number >= 1024 and len(units) > 1:
        number /= 1024
        del units[0]
    return f"{number:.1f} {units[0]}"
