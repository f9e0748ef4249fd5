"""Plans and tickets: what is to be read, in which order, and where it lies. Plain data that pickles small."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from roost.errors import InvalidRequestError

if TYPE_CHECKING:
    from roost._epoch import Facts, Window
    from roost._epoch_read import Batches
    from roost._sources import Source
    from roost.client import Client
    from roost.explain import Explanation

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
    #: The block that the ticket is part of, and how many tickets the block has. What is mixed are the rows of a block.
    block: int = 0
    members: int = 1
    #: Of the block's rows in its own order, those that are the plan's: `skip` and `limit` leave others out.
    from_row: int = 0
    until_row: int | None = None

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
        schema: PackedSchema,
        source: Source,
        facts: Facts,
        window: Window,
        tickets: tuple[Ticket, ...] | None,
        *,
        blocks: int,
        count: int | None,
        fingerprint: str,
        num_rows: int,
        nbytes: int,
        rank: int,
        world_size: int,
        even: str,
        job: str = "",
    ) -> None:
        self._client = client
        self._schema = schema
        self._source = source
        self._facts = facts
        self._window = window
        self._tickets = tickets
        self._count = count
        #: The data set's canonical URL.
        self.url = facts.url
        #: Hash (hexadecimal) of everything that determines the rows and their order: objects, columns, limit, seed, ...
        #: Who reads (rank, world size) is no part of it.
        self.fingerprint = fingerprint
        #: Rows that this reader reads: all of the plan, or its rank's.
        self.num_rows = num_rows
        #: Decoded bytes of the columns asked for, estimated.
        self.nbytes = nbytes
        #: How rows are put in order: "none", "row_groups" or "rows".
        self.shuffle = facts.shuffle
        self.seed = facts.seed
        self.epoch = facts.epoch
        #: Row groups that are mixed with each other, and how many such blocks there are.
        self.block = facts.block
        self.blocks = blocks
        self.rank = rank
        self.world_size = world_size
        #: How ranks are made equally long: "none", "drop" or "repeat".
        self.even = even
        #: The job whose reading keeps the data in the cache; empty when no node made the plan.
        self.job = job

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch, and of the table."""
        return self._schema.schema

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        """The tickets of this reader, in the plan's order. Of a very large plan they are fetched when first asked for.

        Rows of a block are mixed by `batches`; a ticket alone gives them as they lie.
        """
        if self._tickets is None:
            self._tickets = self._source.all(self.rank, self.world_size)
        return self._tickets

    @property
    def direct(self) -> bool:
        """Whether the plan was made without a node, so that it is read from the origin."""
        return self._source.direct

    def batches(self, batch_size: int | None = None, prefetch: int | None = None, *, state: Any = None) -> Batches:
        """The rows as record batches, in the plan's order.

        Args:
            batch_size: rows of each batch, but the last. None: as they come, without copying.
            prefetch: how many blocks are pulled ahead of the one being given out. A block is one ticket, or with
                `shuffle="rows"` as many row groups as the plan says, all of which are in memory. Each is pulled by a
                thread of its own, which stops for you after some 32 MiB. 0 reads only when asked, without threads.
                None: 2, and 1 where blocks are mixed.
            state: where to go on: what `state_dict` of a reader of the same plan gave, or a list with those of all
                ranks, also of another number of ranks.

        Returns:
            An iterator of batches, with `state_dict` and `load_state_dict`.

        Raises:
            InvalidRequestError: the state is of another plan, or not of all ranks.
            StalePlanError: an object changed since the plan was made, or since the state was.
            RoostError: a node's answer, or the origin's; never are rows left out silently.
        """
        from roost._epoch_read import Batches

        return Batches(self, batch_size, prefetch, state)

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

    def shard(self, rank: int, world_size: int) -> Plan:
        """The part of this plan that one of `world_size` readers reads.

        Parts of a rank's part are parts of the plan: reader w of k of rank r of W is rank r + W·w of W·k.
        """
        from roost import order

        if not 0 <= rank < world_size:
            raise InvalidRequestError(f"rank is {rank}: with world_size {world_size} it is 0 to {world_size - 1}")
        rank, world_size = self.rank + self.world_size * rank, self.world_size * world_size
        window = self._window
        rows = window.rows(self._source.block_rows())[window.first :]
        shares = order.shares(rows, window.first, world_size)
        target = order.even_share(shares, self.even, window.end - window.first)
        part = copy(self)
        part._tickets = None
        part.rank, part.world_size = rank, world_size
        part.num_rows = int(shares[rank]) if target is None else target
        part.nbytes = self.nbytes * part.num_rows // max(self.num_rows, 1)
        part._count = None
        return part

    def explain(self, batch_size: int = 256) -> Explanation:
        """What reading this plan will take, told before anything is read.

        Row groups, bytes by node, what is cached, what the origin will be asked for, and how well the order mixes.

        Args:
            batch_size: rows of a step of one reader, for the quality of the shuffle.

        Returns:
            Prints as a table; `.to_dict()` is for programs.
        """
        from roost.explain import explain

        return explain(self, batch_size)

    def __len__(self) -> int:
        return len(self.tickets) if self._count is None else self._count

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self.tickets)

    def __repr__(self) -> str:
        names = self.schema.names
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        columns = f"{len(names)} column{'' if len(names) == 1 else 's'}" + (f" ({shown})" if names else "")
        tickets = f"{len(self):,} ticket{'' if len(self) == 1 else 's'}"
        size = f"{self.num_rows:,} rows, ~{human_bytes(self.nbytes)}"
        order = ""
        if self.shuffle != "none":
            mixed = f" in {self.blocks:,} blocks" if self.shuffle == "rows" else ""
            order = f", {self.shuffle} shuffled{mixed} (seed {self.seed}, epoch {self.epoch})"
        rank = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        direct = ", read from the origin" if self.direct else ""
        return f"<roost.Plan {self.url}: {tickets}, {size}, {columns}{order}{rank}{direct}>"


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
