"""A viser server that its own page may talk to, and no other."""

from __future__ import annotations

import http
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import viser
import websockets.asyncio.server as websockets_server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

LOOPBACK = "127.0.0.1"
LOOPBACKS = (LOOPBACK, "localhost", "::1")

_constructing = threading.Lock()


def refusal(headers: Headers, host: str) -> str:
    """Return why a request is refused, '' where it is not.

    A page of another origin says so in the header Origin. One that lets its own name point here (DNS rebinding) has
    the same origin, but asks for a host that this server is not called.

    Args:
        host: the address at which this server listens.
    """
    asked = headers.get_all("Host")
    if len(asked) != 1:
        return "no host"
    name = urlsplit(f"//{asked[0]}").hostname or ""
    if not _is_this_server(name, host):
        return "a foreign host"
    if "Upgrade" not in headers:
        return ""
    origins = headers.get_all("Origin")
    if len(origins) != 1 or origins[0].lower() not in (
        f"http://{asked[0]}".lower(),
        f"https://{asked[0]}".lower(),
    ):
        return "a foreign origin"
    return ""


def _is_this_server(name: str, host: str) -> bool:
    """Tell whether a name can only be meant for this server: an address, localhost, or what it is called itself."""
    if name in ("localhost", host.lower(), socket.gethostname().lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or host not in LOOPBACKS


@contextmanager
def _serving_one_origin(host: str) -> Iterator[None]:
    """Within the context, a websockets server that is made refuses foreign requests: viser has no setting for it.

    Raises RuntimeError at the end where none was made so: viser has changed, and nothing would be checked.
    """
    original, made = websockets_server.serve, []

    def serve(*args: Any, process_request: Callable[..., Any], **settings: Any) -> Any:
        def checked(connection: Any, request: Request) -> Response | None:
            reason = refusal(request.headers, host)
            if reason:
                return Response(http.HTTPStatus.FORBIDDEN, "Forbidden", Headers(), reason.encode())
            return process_request(connection, request)

        made.append(host)
        return original(*args, process_request=checked, **settings)

    with _constructing:
        websockets_server.serve = serve  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            websockets_server.serve = original  # type: ignore[misc]
    if not made:
        raise RuntimeError("this version of viser does not serve by websockets.asyncio.server.serve")


class SameOriginServer(viser.ViserServer):
    """viser's server for its own page alone; it opens no tunnel to the outside, whoever asks for one."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Return None: a scene is not shared by way of others' servers."""
        return None


def open_server(host: str, port: int, label: str) -> SameOriginServer:
    """Open a server at this address, at the next port that is free."""
    with _serving_one_origin(host):
        return SameOriginServer(host, port, label, verbose=False)
