"""A gRPC server that speaks Flight's method names and answers each call with a status of one's choice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc


class Handler(grpc.GenericRpcHandler):
    """Aborts every call with `code` and `message`."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        self.calls = 0

    def service(self, details: Any) -> Any:
        if details.method.rpartition("/")[2] in ("GetFlightInfo", "GetSchema"):
            return grpc.unary_unary_rpc_method_handler(self._unary)
        return grpc.unary_stream_rpc_method_handler(self._stream)

    def _unary(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        context.abort(self.code, self.message)
        return b""

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.calls += 1
        context.abort(self.code, self.message)
        yield b""


@contextmanager
def status_server(code: grpc.StatusCode, message: str) -> Iterator[tuple[str, Handler]]:
    """Its address, and the handler that counts."""
    handler = Handler(code, message)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc+tcp://127.0.0.1:{port}", handler
    finally:
        server.stop(None).wait()
