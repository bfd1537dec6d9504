"""A Starlette application on a free port of this machine, in a thread of its own; what the tests' servers stand on."""

import socket
import threading
import time
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route


class ThreadedServer:
    """Serves `routes` while it is entered; `port` is taken at once."""

    def __init__(self, routes: list[Route]) -> None:
        # With the protocol named, asyncio sets TCP_NODELAY; without, every second answer waits 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        app = Starlette(routes=routes)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline, "the test server did not start"
            time.sleep(0.005)
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and wait until it has."""
        self.close_soon()
        self._thread.join(10)
        self._socket.close()

    def close_soon(self) -> None:
        """Stop listening; requests in flight are cut off."""
        self._server.should_exit = True
        self._server.force_exit = True
