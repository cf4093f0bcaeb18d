"""What the server refuses, and how to read it."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import httpx


class ArgoError(Exception):
    """The server refused, and said why in a problem document (RFC 9457)."""

    status: int
    #: Such as `unauthorized` or `rate_limited`; `http` when something else answered.
    code: str
    detail: str
    #: The fields at fault, with their row in a batch.
    errors: list[dict[str, Any]]
    #: Seconds after which a retry makes sense, where the server said so.
    retry_after: float | None
    #: What the server's log calls this request.
    request_id: str | None

    def __init__(self, response: httpx.Response) -> None:
        """The response must have been read."""
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {}
        self.status = response.status_code
        self.code = problem.get("code", "http")
        self.detail = problem.get("detail", response.reason_phrase)
        self.errors = problem.get("errors", [])
        self.retry_after = _retry_after(response.headers.get("Retry-After"))
        self.request_id = response.headers.get("X-Request-Id")
        super().__init__(f"{self.status} {self.code}: {self.detail}")

    @property
    def temporary(self) -> bool:
        """True when the same request may succeed later."""
        in_flight = self.status == 409 and self.retry_after is not None
        return self.status == 429 or self.status >= 500 or in_flight


class StreamEnded(Exception):
    """The server ended a stream for good; `cursor` is where another one may resume."""

    def __init__(self, reason: str, cursor: int | None) -> None:
        said = {
            "replaced": "a newer stream of this account took its place: the plan allows no more",
            "unauthorized": "the key was revoked or the session ended",
        }
        super().__init__(said.get(reason, reason))
        self.reason = reason
        self.cursor = cursor


#: What waiting may mend besides an ArgoError that is temporary: faults of the network, and answers
#: that broke off or are not the server's.
FAULTS = (httpx.TransportError, httpx.DecodingError, ValueError)


def _retry_after(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
