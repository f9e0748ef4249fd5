"""A peer of the warm benchmarks: pyarrow's C++ Flight server over Arrow IPC files, one ticket a file.

    python -m harness.flight_peer [--load] UNIX_SOCKET FILE...

Serves TCP and the unix socket, from memory-mapped files, or with `--load` from memory. Prints `serving
grpc://HOST:PORT grpc+unix://PATH` when ready; serves until it is told to stop.
"""

from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.flight as flight


class Batches:
    """One file. Its batches are cut out once: a request finds them ready."""

    def __init__(self, file: str, load: bool) -> None:
        with pa.OSFile(file) if load else pa.memory_map(file) as source, pa.ipc.open_file(source) as reader:
            self.schema = reader.schema
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]


class Server(flight.FlightServerBase):
    def __init__(self, location: str, files: list[Batches]) -> None:
        super().__init__(location)
        self._files = files

    def do_get(self, _context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.FlightDataStream:
        file = self._files[int(ticket.ticket)]
        # A reader made of batches is pulled in C++, and keeps the batches as they are in the file.
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(file.schema, file.batches))


def main() -> None:
    arguments = sys.argv[1:]
    load = arguments[0] == "--load"
    socket, *paths = arguments[load:]
    files = [Batches(path, load) for path in paths]
    with Server("grpc://127.0.0.1:0", files) as tcp, Server(f"grpc+unix://{socket}", files):
        print(f"serving grpc://127.0.0.1:{tcp.port} grpc+unix://{socket}", flush=True)
        tcp.serve()


if __name__ == "__main__":
    main()
