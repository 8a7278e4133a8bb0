"""A TCP proxy that breaks the link between box and broker: cuts, black holes, stalls, delay, throttle; each logged."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, TypeAlias

Way: TypeAlias = Literal["up", "down"]  # up: from the client to the broker
BOTH: tuple[Way, ...] = ("up", "down")
_CHUNK_BYTES = 65_536
_LAST_WORDS_S = 0.1  # what one side sent before it closed still reaches the other
_LOOK_S = 0.005  # how often a stalled direction looks whether it may go on
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST and drops what waits


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter | None = None
    torn: set[Way] = field(default_factory=set)  # directions of which bytes were swallowed: only a cut is left for it

    def close(self, reset: bool) -> None:
        for writer in (self.client, self.broker):
            if writer is None:
                continue
            sock = writer.get_extra_info("socket")
            if reset and sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Listens on `port` of loopback and carries every connection to `to_port`. A context, or start and close.

    `delay_s` and `bytes_per_s` may be set at any time. Faults may be called from any thread.
    """

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.delay_s = 0.0  # each chunk waits so long: latency, and with it a limit to what is under way
        self.bytes_per_s: float | None = None  # in each direction
        self.log: list[tuple[float, str]] = []  # (time.monotonic(), what)
        self.swallowed_bytes = 0
        self._swallow: frozenset[Way] = frozenset()
        self._stall: frozenset[Way] = frozenset()
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    # --- faults

    def cut(self, reset: bool = True) -> None:
        """Break every connection: with RST, or with FIN as a peer that closes in order."""
        self._note(f"cut ({'RST' if reset else 'FIN'})")
        self._loop.call_soon_threadsafe(self._close_all, reset)

    def black_hole(self, *ways: Way) -> None:
        """Accept everything and pass nothing on, in these directions (both if none is named), until `heal`."""
        self._note(f"black hole {' '.join(ways or BOTH)}")
        self._swallow = frozenset(ways or BOTH)

    def stall(self, *ways: Way) -> None:
        """Hold everything back, as a network that drops packets for a while; `heal` lets it go on."""
        self._note(f"stall {' '.join(ways or BOTH)}")
        self._stall = frozenset(ways or BOTH)

    def heal(self) -> None:
        """End a black hole or stall. Connections that lost bytes are reset: their streams make no sense any more."""
        self._note("heal")
        self._swallow = self._stall = frozenset()
        self._loop.call_soon_threadsafe(self._close_torn)

    # --- life

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, what: str) -> None:
        self.log.append((time.monotonic(), what))

    # --- the proxy's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        self._close_all(True)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _close_all(self, reset: bool) -> None:
        for connection in list(self._connections):
            connection.close(reset)

    def _close_torn(self) -> None:
        for connection in list(self._connections):
            if connection.torn:
                connection.close(True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            from_broker, connection.broker = await asyncio.open_connection("127.0.0.1", self.to_port)
            pumps = [
                asyncio.ensure_future(self._pump(connection, "up", reader, connection.broker)),
                asyncio.ensure_future(self._pump(connection, "down", from_broker, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(pumps, timeout=_LAST_WORDS_S)
            for pump in pumps:
                pump.cancel()
        except OSError:  # no broker listens: the client is refused
            connection.close(True)
        finally:
            self._connections.discard(connection)
            connection.close(False)

    async def _pump(
        self, connection: _Connection, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                while way in self._stall:
                    await asyncio.sleep(_LOOK_S)
                if way in self._swallow or way in connection.torn:
                    connection.torn.add(way)
                    self.swallowed_bytes += len(chunk)
                    continue
                wait_s = self.delay_s + (len(chunk) / self.bytes_per_s if self.bytes_per_s else 0.0)
                if wait_s:
                    await asyncio.sleep(wait_s)
                writer.write(chunk)
                await writer.drain()
        except OSError:
            return  # one of the two is gone; `_serve` closes the other
