"""Polls, exports and posts; streams are in stream.py."""

from __future__ import annotations

import contextlib
import json
import random
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from .errors import FAULTS, ArgoError
from .lines import lines_of
from .signals import Accepted, Signal
from .stream import Notice, Stream, warn

_PAGES_MAX = 256
#: Whoever asks for a longer wait, in seconds, is asked after this all the same.
_ASKED_MAX = 86_400.0


@dataclass(frozen=True, eq=False)
class Page:
    """What a query showed. As long as nothing has changed it is the very same object."""

    query: Mapping[str, Any]
    #: Newest first.
    signals: Sequence[Signal]
    #: The highest id that was visible.
    head_id: int
    etag: str


class Client:
    """A client of one server, for one key. All that it keeps is in memory and bounded.

    Threads may share it. Reads, and posts by their Idempotency-Key, are tried again after faults of
    the network, 429 and 5xx: after Retry-After where there is one, then at random below a ceiling
    that doubles from `backoff` to `backoff_max` seconds, until `deadline` seconds have passed.

    `timeout` is how long one attempt may hear nothing, `mute` how long a stream may; the server
    speaks every 15 seconds. `transport` is httpx's, for tests and proxies.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 10.0,
        deadline: float = 30.0,
        mute: float = 40.0,
        backoff: float = 1.0,
        backoff_max: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport
        )
        self._timeout = timeout
        self._deadline = deadline
        self._mute = mute
        self._backoff = backoff
        self._backoff_max = backoff_max
        self._pages: OrderedDict[str, Page] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def latest(self, **query: Any) -> Page:
        """The newest signals: `limit`, `symbol`, `strategy`, `min_confidence`, `premium_only`.

        What has not changed is not sent again. Raises ArgoError when the server refuses, or has not
        answered well before the deadline.
        """
        with self._lock:
            known = self._pages.get(_key(query))
        return self._ask(query, known, 0)

    def batch(self, queries: Sequence[Mapping[str, Any]]) -> list[Page]:
        """The same of up to 20 queries in one round trip.

        Raises ArgoError when one of them is refused; what came of the others is kept.
        """
        with self._lock:
            known = [self._pages.get(_key(query)) for query in queries]
        requests = [
            {
                "url": str(httpx.URL("/api/signals/latest", params=_params(query))),
                "headers": {} if page is None else {"If-None-Match": page.etag},
            }
            for query, page in zip(queries, known, strict=True)
        ]
        request = self._http.build_request("POST", "/api/batch", json={"requests": requests})
        parts = _named("responses", self._send(request, self._deadline))
        pages: list[Page] = []
        refused: ArgoError | None = None
        for query, page, part in zip(queries, known, parts, strict=True):
            answer = httpx.Response(part["status"], headers=part["headers"], json=part["body"])
            if answer.status_code == 304 and page is not None:
                pages.append(page)
            elif answer.is_success:
                pages.append(self._keep(query, answer))
            else:
                refused = refused or ArgoError(answer)
        if refused is not None:
            raise refused
        return pages

    def wait(self, page: Page, seconds: int = 25) -> Page:
        """The page that comes after this one, as soon as there is one, else this one (0 to 60)."""
        return self._ask(page.query, page, seconds)

    def poll(self, *, wait: int = 25, interval: float = 1.0, **query: Any) -> Iterator[Page]:
        """The newest signals, then again whenever they have changed.

        The server holds each poll for up to `wait` seconds; `interval` is the least time between
        two that found nothing new. Goes on for as long as waiting may help.
        """
        page: Page | None = None
        failures = 0
        while True:
            begun = time.monotonic()
            try:
                after = self._ask(query, page, wait)
            except (ArgoError, *FAULTS) as error:
                self._pause(error, failures)
                failures += 1
                continue
            failures = 0
            new = after is not page
            if new:
                page = after
                yield page
            # One whose ETag was taken off on its way may be the same, and is not waited for.
            if not (new and after.etag):
                time.sleep(max(0.0, interval - (time.monotonic() - begun)))

    def stream(
        self,
        since_id: int | None = None,
        *,
        return_when_replaced: bool = False,
        on_notice: Callable[[Notice], None] = warn,
        **filters: Any,
    ) -> Stream:
        """Signals after this id, without it those that come from now on, as they come.

        Filters are those of `latest` but for `limit`. `on_notice` is told what is no signal; by
        default gaps are warned of. See Stream.
        """
        return Stream(self, since_id, filters, return_when_replaced, on_notice)

    def export(
        self, since_id: int = 0, *, on_notice: Callable[[Notice], None] = warn
    ) -> Iterator[Signal]:
        """Everything after an id, ascending, up to the highest at the start.

        Goes on where it broke off; raises what went wrong when nothing came until the deadline.
        `on_notice` is told of a gap, as a stream's is.
        """
        progress = time.monotonic()
        failures = 0
        telling = False
        while True:
            try:
                with self._open("/api/signals/export", {"since_id": since_id}) as response:
                    gap = re.fullmatch(
                        r"from=(\d+), to=(\d+)", response.headers.get("Signal-Gap", "")
                    )
                    if gap:
                        since, until = map(int, gap.groups())
                        telling = True
                        on_notice({"type": "gap", "id": since_id, "from": since, "to": until})
                        telling = False
                    for line in lines_of(response):
                        signal: Signal = json.loads(line)
                        if signal["id"] <= since_id:
                            continue
                        since_id = signal["id"]
                        failures = 0
                        yield signal
                        progress = time.monotonic()
                return
            except (ArgoError, *FAULTS) as error:
                if telling or time.monotonic() - progress > self._deadline:
                    raise
                self._pause(error, failures)
                failures += 1

    def post(
        self,
        signals: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
    ) -> list[Accepted]:
        """Writes signals: all or none, and never twice, however often it has to be sent.

        The key is made here; who may be ended between two tries gives one that lasts. Raises
        ArgoError 422, which names the fields at fault and their row.
        """
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key or secrets.token_hex(16),
        }
        # Whole numbers and text alone would do; NaN is refused here, where it can be told why.
        body = json.dumps(signals, allow_nan=False).encode()
        request = self._http.build_request("POST", "/api/signals", content=body, headers=headers)
        accepted: list[Accepted] = _named("signals", self._send(request, self._deadline))
        return accepted

    def _ask(self, query: Mapping[str, Any], known: Page | None, wait: int) -> Page:
        headers = {} if known is None else {"If-None-Match": known.etag}
        params = _params(query)
        if known is not None and wait > 0:
            params["wait"] = str(wait)
        request = self._http.build_request(
            "GET",
            "/api/signals/latest",
            params=params,
            headers=headers,
            timeout=self._timeout + wait,
        )
        response = self._send(request, self._deadline + wait)
        if response.status_code == 304 and known is not None:
            return known
        return self._keep(query, response)

    def _keep(self, query: Mapping[str, Any], response: httpx.Response) -> Page:
        head_id = int(response.headers.get("Signal-Head", 0))
        etag = response.headers.get("ETag", "")
        signals = response.json()
        if not isinstance(signals, list):
            raise ValueError("the poll was answered by something else")
        page = Page(dict(query), tuple(signals), head_id, etag)
        key = _key(query)
        with self._lock:
            self._pages[key] = page
            self._pages.move_to_end(key)
            if len(self._pages) > _PAGES_MAX:
                self._pages.popitem(last=False)
        return page

    def _send(self, request: httpx.Request, deadline: float) -> httpx.Response:
        """Sends until it is answered for good, or the deadline is near. Gives 2xx or 304."""
        until = time.monotonic() + deadline
        failures = 0
        while True:
            error: Exception
            try:
                response = _whole(self._http.send(request, stream=True), until)
                if response.is_success:
                    response.json()  # an answer that is not whole is a failed attempt
                if response.is_success or response.status_code == 304:
                    return response
                error = ArgoError(response)
                if not error.temporary:
                    raise error
            except FAULTS as fault:
                error = fault
            pause = self._pause_after(error, failures)
            if time.monotonic() + pause > until:
                raise error
            time.sleep(pause)
            failures += 1

    def _open(self, path: str, params: Mapping[str, Any]) -> _Opened:
        """Sends once, for an answer that is read as it comes."""
        timeout = httpx.Timeout(self._timeout, read=self._mute)
        request = self._http.build_request("GET", path, params=_params(params), timeout=timeout)
        return _Opened(self._http, request)

    def _pause(self, error: Exception, failures: int) -> None:
        """Waits before another try. Raises the error when no waiting mends it."""
        if isinstance(error, ArgoError) and not error.temporary:
            raise error
        time.sleep(self._pause_after(error, failures))

    def _pause_after(
        self, error: Exception | None, failures: int, first: float | None = None
    ) -> float:
        """Seconds: what the server asked for, then full jitter, so that bots come back apart."""
        asked = (error.retry_after or 0.0) if isinstance(error, ArgoError) else 0.0
        ceiling = min(self._backoff_max, (first or self._backoff) * 2 ** min(failures, 20))
        return min(asked, _ASKED_MAX) + random.uniform(0, ceiling)


def _whole(opened: httpx.Response, until: float) -> httpx.Response:
    """Reads an answer. httpx alone would wait without end for one that trickles."""
    pieces: list[bytes] = []
    with contextlib.closing(opened):
        for piece in opened.iter_bytes():
            pieces.append(piece)
            if time.monotonic() > until:
                raise httpx.ReadTimeout("the answer came too slowly", request=opened.request)
    unpacked = {"content-encoding", "content-length", "transfer-encoding"}
    headers = [item for item in opened.headers.multi_items() if item[0].lower() not in unpacked]
    return httpx.Response(opened.status_code, headers=headers, content=b"".join(pieces))


class _Opened:
    """An answer that is closed with its scope. Raises ArgoError when the server refuses."""

    def __init__(self, http: httpx.Client, request: httpx.Request) -> None:
        self._http = http
        self._request = request

    def __enter__(self) -> httpx.Response:
        self._response = self._http.send(self._request, stream=True)
        if not self._response.is_success:
            try:
                self._response.read()
            finally:
                self._response.close()
            raise ArgoError(self._response)
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def _named(name: str, response: httpx.Response) -> list[Any]:
    """A list in an answer."""
    body = response.json()
    found = body.get(name) if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise ValueError("the request was answered by something else")
    return found


def _params(query: Mapping[str, Any]) -> dict[str, str]:
    """As the server reads them; None is left out."""
    given = {name: value for name, value in query.items() if value is not None}
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in sorted(given.items())
    }


def _key(query: Mapping[str, Any]) -> str:
    """What a page is kept by: how new it must be at least is of one call."""
    return json.dumps(_params({**query, "min_id": None}))
