"""The viewer's page may talk to its server; no other page may, nor one that lets its own name point there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("viser", reason="the viewer's tests need viser: pip install -e '.[viewer]'")

import viser
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ids3d.systems.viewer.same_origin import SameOriginServer, open_server, refusal


@pytest.fixture
def server() -> Iterator[SameOriginServer]:
    opened = open_server("127.0.0.1", 18_080, "test")
    yield opened
    opened.stop()


def opens(server: SameOriginServer, origin: str | None, host: str = "127.0.0.1") -> bool:
    """Whether a websocket to the server can be opened by a page of this origin."""
    port = server.get_port()
    settings = {"subprotocols": [f"viser-v{viser.__version__}"], "max_size": None, "proxy": None}
    try:
        with connect(f"ws://{host}:{port}", origin=origin, **settings) as socket:  # type: ignore[arg-type]
            return bool(socket.recv(timeout=30))
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
        return False


def test_a_websocket_is_for_the_servers_own_page_alone(server: SameOriginServer) -> None:
    port = server.get_port()
    assert opens(server, f"http://127.0.0.1:{port}")
    assert opens(server, f"http://localhost:{port}", "localhost")
    for origin in (
        None,
        "null",
        "http://evil.example",
        f"http://evil.example:{port}",
        "http://127.0.0.1",
        f"http://127.0.0.1:{port + 1}",
        f"http://localhost:{port}",  # another origin than the address that is asked for
        f"http://127.0.0.1:{port}.evil.example",
    ):
        assert not opens(server, origin), origin


@pytest.mark.parametrize(
    ("asked", "listens", "is_refused"),
    [
        ("127.0.0.1:8080", "127.0.0.1", False),
        ("localhost:9000", "127.0.0.1", False),  # through a tunnel
        ("[::1]:8080", "127.0.0.1", False),
        ("evil.example:8080", "127.0.0.1", True),  # its name points here
        ("127.0.0.1.evil.example:8080", "127.0.0.1", True),
        ("192.168.1.2:8080", "127.0.0.1", True),
        ("192.168.1.2:8080", "0.0.0.0", False),
        ("evil.example:8080", "0.0.0.0", True),
        ("box.lan:8080", "box.lan", False),
        ("", "127.0.0.1", True),
    ],
)
def test_a_host_that_is_another_is_refused(asked: str, listens: str, is_refused: bool) -> None:
    own = Headers({"Host": asked, "Upgrade": "websocket", "Origin": f"http://{asked}"})
    assert bool(refusal(own, listens)) == is_refused
    assert bool(refusal(Headers({"Host": asked}), listens)) == is_refused  # the page itself


def test_nobody_opens_a_tunnel_to_the_outside(server: SameOriginServer) -> None:
    assert server.request_share_url() is None
