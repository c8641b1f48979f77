"""Who may send requests to ``/_sandbox/``, beyond the check of the ``Host`` that all requests must pass.

* From this machine no token is needed. From elsewhere the request carries a token with every scope: as ``Bearer``, or
  as the password of ``Basic``, for which browsers ask by themselves.
* A page of another origin can send requests, but not read the replies. A request that changes something is answered 403
  if the browser says that it comes from elsewhere (``Origin``, ``Sec-Fetch-Site``), and a body has to be JSON, which no
  page may send to another origin without asking.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from yarl import URL

from jetpay_async.sandbox import _responses
from jetpay_async.sandbox._access import is_loopback_peer
from jetpay_async.sandbox._api import TokenScope

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aiohttp import web

    from jetpay_async.sandbox._responses import SandboxResponse

__all__ = ["guard"]

_SAFE_METHODS = frozenset({"GET", "HEAD"})


def guard(request: web.Request, tokens: Mapping[str, Collection[TokenScope]]) -> SandboxResponse | None:
    """Return the answer to a request that is not allowed; None for one that is."""
    if not is_loopback_peer(request.remote) and not _has_token(request, tokens):
        return _responses.json(
            401,
            {"detail": "From another machine, this needs the sandbox's token: as Bearer, or as the password of Basic"},
            {"WWW-Authenticate": 'Basic realm="sandbox", charset="UTF-8"'},
        )
    if request.method not in _SAFE_METHODS and _is_foreign(request):
        return _responses.json(403, {"detail": "This request comes from a page of another origin"})
    return None


def _has_token(request: web.Request, tokens: Mapping[str, Collection[TokenScope]]) -> bool:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            _, _, credentials = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
    return len(tokens.get(credentials, ())) == len(TokenScope)


def _is_foreign(request: web.Request) -> bool:
    """Return whether a browser says that another origin's page sent the request."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return True
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    try:
        page = URL(origin)
        # The scheme is the page's: where a proxy ends TLS, this request came without it.
        own = URL(f"{page.scheme}://{request.headers.get('Host', '')}")
    except ValueError:
        return True
    return page.host is None or (page.host, page.port) != (own.host, own.port)
