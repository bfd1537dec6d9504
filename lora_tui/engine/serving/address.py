"""Where a server listens and who may ask it: the address, the key, and the line that brings it to a laptop.

All of it is checked before torch is imported.
"""

import errno
import getpass
import ipaddress
import os
import socket
from importlib.util import find_spec

from lora_tui.config.models import Serving
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.secrets import register_key_variable
from lora_tui.text import one_line

_SHORTEST_KEY = 16
"""Characters of a key that is asked for from other machines."""


def check_installed() -> None:
    """Raise `UsageError` where the extra with the HTTP server is not installed."""
    if any(find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UsageError("--run serve needs an HTTP server, which is not installed: pip install 'lora-tui[serve]'")


def server_key(serving: Serving) -> str | None:
    """Return the key that clients must send, None where there is none and the address is this machine's alone.

    Raises `UsageError` for another address without a key, or with one that can be guessed.
    """
    variable = serving.api_key_env
    register_key_variable(variable)
    key = os.environ.get(variable, "").strip() or None
    if is_loopback(serving.host):
        return key
    example = f"export {variable}=$(openssl rand -hex 24)"
    if key is None:
        raise UsageError(
            f"serving.host = {one_line(serving.host, 60)} lets other machines ask, which needs a key in the "
            f"environment variable {variable}:\n{example}"
        )
    if len(key) < _SHORTEST_KEY:
        raise UsageError(f"The key in {variable} has fewer than {_SHORTEST_KEY} characters. A longer one: {example}")
    return key


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def open_listener(serving: Serving) -> socket.socket:
    """Return a socket that listens on the address; raises `LoraTuiError` where it cannot."""
    host = serving.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, serving.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        shown = f"{one_line(host, 60)}:{serving.port}"
        if problem.errno == errno.EADDRINUSE:
            raise LoraTuiError(
                f"{shown} is taken by another program. Take another port: --set serving.port={serving.port + 1}"
            ) from problem
        if problem.errno == errno.EACCES:
            raise LoraTuiError(
                f"{shown}: ports below 1024 are the system's. Take another one: --set serving.port=8000"
            ) from problem
        reason = problem.strerror or str(problem)
        raise UsageError(f"serving.host: {shown} is no address of this machine ({reason}).") from problem
    return listener


def base_url(listener: socket.socket) -> str:
    """Return the URL that clients on this machine are given."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def tunnel_command(listener: socket.socket) -> str:
    """Return the command that makes the server answer on somebody's laptop, on the port that it has here."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    parts = os.environ.get("SSH_CONNECTION", "").split()  # the client's address and port, then those of this machine
    there, ssh_port = (parts[2], parts[3]) if len(parts) == 4 else (socket.gethostname(), "22")
    option = f" -p {ssh_port}" if ssh_port != "22" else ""
    return f"ssh -N -L {port}:{f'[{host}]' if ':' in host else host}:{port}{option} {getpass.getuser()}@{there}"
