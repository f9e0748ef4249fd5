"""Which nodes there are and how to ask them: addresses, connections, order, retries, and which one is down."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import random
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.flight as flight

from roost.errors import InvalidRequestError, RoostError, UnavailableError, UnsupportedError, from_flight

T = TypeVar("T")

DEFAULT_ADDRESS = "grpc://127.0.0.1:8815"
DEFAULT_PORT = 8815

_SCHEMES = {"grpc": "grpc+tcp", "grpc+tcp": "grpc+tcp", "grpc+tls": "grpc+tls", "grpc+unix": "grpc+unix"}

_UNIX = "grpc+unix://"

# Seconds between the rounds over all addresses. Where the origin can be read instead, nobody waits long for a node.
_DELAYS = (0.2, 0.8, 2.0, 4.0)
_DELAYS_WITH_FALLBACK = (0.1, 0.3)
# No round starts later than so many seconds after the first.
_LAST_ROUND_SECONDS = 30.0
# So long an address that did not answer is asked last, or not at all where the origin can be read instead.
_DOWN_SECONDS = 5.0

_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Also the limit of one attempt to connect.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # gRPC refuses calls between two attempts to connect; the retries here decide when to ask again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A node whose machine vanished never closes its connection.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def parse_addresses(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Addresses as `FlightClient` takes them.

    `given` is one address, a comma-separated list, or an iterable of addresses; None means `$ROOST_NODE`, else
    `grpc://127.0.0.1:8815`. An address is `grpc://HOST[:PORT]`, `grpc+tls://HOST[:PORT]`, `grpc+unix:///PATH` or
    `HOST[:PORT]`.

    Raises:
        InvalidRequestError: no address, or one that is none of these.
        UnsupportedError: `etcd://`, which this version cannot ask.

    >>> parse_addresses("a, grpc://b:1")
    ('grpc+tcp://a:8815', 'grpc+tcp://b:1')
    """
    if given is None:
        given = os.environ.get("ROOST_NODE") or DEFAULT_ADDRESS
    parts = [given] if isinstance(given, str) else list(given)
    found = [part.strip() for item in parts for part in item.split(",") if part.strip()]
    if not found:
        raise InvalidRequestError(f"no address of a node in {parts!r}: give one such as {DEFAULT_ADDRESS}")
    return tuple(dict.fromkeys(_parse_address(address) for address in found))


def _parse_address(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "grpc", address
    if scheme == "etcd":
        raise UnsupportedError(f"{address}: this version cannot ask etcd for nodes; name the nodes: grpc://HOST:PORT")
    if scheme not in _SCHEMES:
        raise InvalidRequestError(f"{address}: the scheme of a node's address is one of {', '.join(_SCHEMES)}")
    if scheme == "grpc+unix":
        # pyarrow takes URIs, and those who write a path rarely escape it.
        return f"{_UNIX}{quote(unquote(rest))}"
    host, port = _split_port(rest.rstrip("/"))
    if not host or not (port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidRequestError(f"{address}: not an address of a node; write it as grpc://HOST:PORT")
    return f"{_SCHEMES[scheme]}://{host}:{port}"


def _split_port(rest: str) -> tuple[str, str]:
    host, colon, port = rest.rpartition(":")
    # The last colon of a bare IPv6 address in brackets stands inside them.
    if not colon or rest.endswith("]"):
        return rest, str(DEFAULT_PORT)
    return host, port


class _Connections:
    """One `FlightClient` per address, and what is known of the address."""

    def __init__(self, *, cut_off: bool = False) -> None:
        self.lock = threading.Lock()
        self._cut_off = cut_off
        self._clients: dict[str, flight.FlightClient] = {}
        #: Calls and streams under way.
        self._uses = 0
        #: Clients that somebody still holds: an exception that was caught may.
        self._alive: weakref.WeakSet[object] = weakref.WeakSet()
        self._down_until: dict[str, float] = {}

    def client(self, address: str) -> flight.FlightClient:
        if self._cut_off:
            raise UnsupportedError(
                "this process was forked while gRPC was busy in its parent, which gRPC does not survive: start workers"
                " with 'spawn' or 'forkserver' (DataLoader(multiprocessing_context='spawn'), ...), or fork while no"
                " stream is open"
            )
        with self.lock:
            client = self._clients.get(address)
            if client is None:
                options = list(_OPTIONS)
                if address.startswith("grpc+unix:"):
                    # Else gRPC names the socket's path as the authority, which HTTP/2 servers refuse.
                    options.append(("grpc.default_authority", "localhost"))
                client = flight.FlightClient(address, generic_options=options)
                self._clients[address] = client
                self._alive.add(client)
            return client

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Around every call, and around every stream until it is let go of."""
        with self.lock:
            self._uses += 1
        try:
            yield
        finally:
            with self.lock:
                self._uses -= 1

    def close(self) -> bool:
        """Closes all connections unless one is in use; whether gRPC has ended with them. The caller holds the lock."""
        if self._uses:
            return False
        if not self._clients and not self._alive:
            return True
        self._clients.clear()
        if self._alive:
            gc.collect()
        return not self._alive and _grpc_ends()

    def is_down(self, address: str) -> bool:
        return self._down_until.get(address, 0.0) > time.monotonic()

    def mark(self, address: str, *, down: bool) -> None:
        if down:
            self._down_until[address] = time.monotonic() + _DOWN_SECONDS
        else:
            self._down_until.pop(address, None)


# Threads of gRPC as the kernel names them, in the versions that pyarrow 17 to 26 bring.
_GRPC_THREADS = ("event_engine", "grpc_", "lifeguard", "timer_manager", "default-exec", "resolver-exec")


def _grpc_ends() -> bool:
    """Waits for the threads of gRPC to end, which takes a millisecond once the last connection is closed."""
    give_up_at = time.monotonic() + 0.25
    while True:
        names = []
        for comm in glob.glob("/proc/self/task/*/comm"):
            with contextlib.suppress(OSError), open(comm) as file:
                names.append(file.read())
        if not any(name.startswith(_GRPC_THREADS) for name in names):
            return True
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.001)


_connections = _Connections()

# gRPC does not survive a fork while it runs, but it ends with its last connection. So connections are closed before a
# fork and made anew after it, on both sides; where one is in use at that moment, the child says so instead of hanging.
_closed = True
# Destroying in a forked child what the parent uses could hang there.
_of_the_parent: list[_Connections] = []


def _before_fork() -> None:
    global _closed
    _connections.lock.acquire()
    _closed = _connections.close()


def _after_fork_in_parent() -> None:
    _connections.lock.release()


def _after_fork_in_child() -> None:
    global _connections
    _of_the_parent.append(_connections)
    _connections = _Connections(cut_off=not _closed)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def in_use() -> contextlib.AbstractContextManager[None]:
    """Around a stream, from its opening until it is let go of."""
    return _connections.use()


class Nodes:
    """Addresses, any of which can answer any request.

    Args:
        addresses: as `parse_addresses` gives them.
        patient: whether to wait for a node that does not answer; else the caller has another way soon.
    """

    def __init__(self, addresses: tuple[str, ...], *, patient: bool) -> None:
        self.addresses = addresses
        self._patient = patient

    def order(self, prefer: Sequence[str] = (), avoid: str | None = None) -> list[str]:
        """The addresses in the order to ask them: `prefer` first, those known to be down and `avoid` last.

        Of `prefer`, sockets on this host come before all: nothing is faster.
        """
        addresses = list(dict.fromkeys((*_usable(prefer), *self.addresses)))
        return sorted(addresses, key=lambda address: (address == avoid) + 2 * _connections.is_down(address))

    def ask(
        self,
        operation: Callable[[flight.FlightClient], T],
        doing: str,
        *,
        prefer: Sequence[str] = (),
        avoid: str | None = None,
        skip_down: bool = False,
    ) -> tuple[T, str]:
        """Runs `operation` on the first node that answers: its result, and the address that gave it.

        Args:
            operation: asks a node; it may be run several times.
            doing: what is being done, for messages.
            prefer: addresses to ask first.
            avoid: an address to ask last.
            skip_down: where no node answered a moment ago, don't ask again, unless this client is patient.

        Raises:
            UnavailableError: no node answers.
            RoostError: a node's own answer, which another node would give too.
        """
        started = time.monotonic()
        failures: dict[str, RoostError] = {}
        for round_number in count():
            order = self.order(prefer, avoid)
            if skip_down and not self._patient and all(_connections.is_down(address) for address in order):
                break
            failures = {}
            for address in order:
                try:
                    with _connections.use():
                        answer = operation(_connections.client(address))
                except (pa.ArrowException, RoostError, OSError) as error:
                    failure = from_flight(error, doing)
                    if not failure.retryable:
                        raise failure from error
                    failures[address] = failure
                    if address.startswith(_UNIX) and len(order) > 1 and isinstance(failure, UnavailableError):
                        # Its node can be asked by TCP, too: the next reads do not try here first.
                        _connections.mark(address, down=True)
                else:
                    _connections.mark(address, down=False)
                    return answer, address
            unreachable = all(isinstance(failure, UnavailableError) for failure in failures.values())
            delays = _DELAYS_WITH_FALLBACK if unreachable and not self._patient else _DELAYS
            if round_number >= len(delays) or time.monotonic() - started > _LAST_ROUND_SECONDS:
                break
            time.sleep(delays[round_number] * random.uniform(0.75, 1.25))
        for address, failure in failures.items():
            if not isinstance(failure, UnavailableError):
                raise failure
            _connections.mark(address, down=True)
        raise UnavailableError(_nobody_answers(self.order(prefer, avoid), failures, doing))


def _nobody_answers(order: Sequence[str], failures: dict[str, RoostError], doing: str) -> str:
    reasons = "; ".join(f"{address}: {failures.get(address, 'did not answer just now')!s}" for address in order)
    return (
        f"{doing}: no node answers ({reasons}). Start one with `roost serve`, or name one that runs:"
        " roost.connect('grpc://HOST:PORT') or ROOST_NODE."
    )


def _usable(locations: Iterable[str]) -> list[str]:
    """Those of a ticket's locations that name a node; Flight also knows `arrow-flight-reuse-connection://?`."""
    found = []
    for location in locations:
        try:
            address = _parse_address(location)
        except RoostError:
            continue
        if not address.startswith(_UNIX) or _is_here(address):
            found.append(address)
    return sorted(found, key=lambda address: not address.startswith(_UNIX))


def socket_path(address: str) -> str | None:
    """Where the socket of a `grpc+unix://` address lies."""
    return unquote(address.removeprefix(_UNIX)) if address.startswith(_UNIX) else None


def _is_here(address: str) -> bool:
    """Whether this process can reach the socket: it lies on the node's host, and not everybody may use it."""
    path = socket_path(address)
    try:
        return path is not None and stat.S_ISSOCK(os.stat(path).st_mode) and os.access(path, os.W_OK)
    except OSError:
        return False


def local_sockets(locations: Iterable[str]) -> Iterator[str]:
    """Paths of the sockets on this host among `locations`."""
    for location in locations:
        path = socket_path(location)
        if path is not None and _is_here(location):
            yield path
