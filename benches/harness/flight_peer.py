"""The peer of the warm benchmark: pyarrow's C++ Flight server over memory-mapped Arrow IPC files, one ticket a file.

    python -m harness.flight_peer FILE...

Prints `serving grpc://HOST:PORT` when ready; serves until it is told to stop.
"""

from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.flight as flight


class Server(flight.FlightServerBase):
    def __init__(self, files: list[str]) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._readers = [pa.ipc.open_file(pa.memory_map(file)) for file in files]

    def do_get(self, _context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.FlightDataStream:
        reader = self._readers[int(ticket.ticket)]
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        # A reader made of batches is pulled in C++, and keeps the batches as they are in the file.
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(reader.schema, list(batches)))


def main() -> None:
    with Server(sys.argv[1:]) as server:
        print(f"serving grpc://127.0.0.1:{server.port}", flush=True)
        server.serve()


if __name__ == "__main__":
    main()
