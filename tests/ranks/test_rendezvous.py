"""Where ranks meet: what a node is called when nothing can be resolved."""

from __future__ import annotations

import socket

import pytest

from unicscale.ranks.rendezvous import own_address


def test_a_node_without_a_name_or_a_route_still_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stranded(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(101, "Network is unreachable")

    def unknown(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    monkeypatch.setattr(socket, "socket", Stranded)
    assert own_address() == socket.gethostname()
