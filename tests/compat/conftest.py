"""Servers that play a provider, as the clients' tests have them."""

from tests.clients.conftest import serve

__all__ = ["serve"]
