"""Rules of access to a server: Host, Origin and token."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Access:
    """Rules of access.

    Attributes:
        host: address that the server listens on.
        token: token that clients must send; None if none is needed.
        origins: origins of pages, besides the server's own, that may use the server.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    origins: tuple[str, ...] = ()

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Returns the reason to refuse a request by its headers; None if there is none.

        A page of another site is refused, because it runs in browsers of people who can reach this server. A foreign
        name of a local server is refused as well, because such a name may have been pointed at it (DNS rebinding).
        """
        host = headers.get("host", "").lower()
        if self.host in LOCAL_HOSTS and _name(host) not in LOCAL_HOSTS:
            return "a local server is reached as 127.0.0.1 or localhost only"
        origin = headers.get("origin")
        if origin is None or origin in self.origins or origin.lower() in (f"http://{host}", f"https://{host}"):
            return None
        return "pages of other origins may not use this server: start it with --origin to allow one"

    def accepts(self, token: str | None) -> bool:
        """Returns True if no token is needed or this is the token."""
        return self.token is None or hmac.compare_digest((token or "").encode(), self.token.encode())

    def accepts_header(self, headers: Mapping[str, str]) -> bool:
        """Applies `accepts` to the header `Authorization: Bearer TOKEN`."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        return self.accepts(token.strip() if kind.lower() == "bearer" else None)


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
