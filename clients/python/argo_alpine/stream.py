"""A stream of server-sent events that outlives its connections."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx

from .errors import FAULTS, ArgoError, StreamEnded
from .lines import lines_of
from .signals import Signal

if TYPE_CHECKING:
    from .client import Client

#: What a stream tells besides signals: a `type`, and `id`, which is where to resume. `head` has
#: `head_id`, the highest id that is visible; `ahead` says that the cursor was above that (another
#: file, another plan, deleted rows); `gap` that of the ids `from` to `to` some may be missing,
#: deleted for their age; `dropped`, with `reason` and `pause` in seconds, that the connection was
#: lost.
Notice = dict[str, Any]

#: A later server may tell more.
_EVENTS = frozenset({"signal", "head", "ahead", "gap", "end"})

#: How long a connection must have lasted to be none that fails at once, seconds.
_STEADY = 10.0


def warn(notice: Notice) -> None:
    """Warns of what a bot must not overlook."""
    if notice["type"] in ("gap", "ahead"):
        warnings.warn(f"argo-alpine: {notice}", stacklevel=3)


class Stream:
    """Signals as they come, ascending by id, each once, over as many connections as it takes.

    Raises StreamEnded when the server ends it for good: `unauthorized`, or `replaced` by a newer
    stream of the account, unless it is to return when replaced. A bot that is slow slows it down.
    """

    #: Where another stream may resume: everything up to this id was given out. Save it when a
    #: signal has been acted on. None until the first connection has begun.
    cursor: int | None

    def __init__(
        self,
        client: Client,
        since_id: int | None,
        filters: Mapping[str, Any],
        return_when_replaced: bool,
        on_notice: Callable[[Notice], None],
    ) -> None:
        self.cursor = since_id
        self._client = client
        self._filters = filters
        self._return_when_replaced = return_when_replaced
        self._on_notice = on_notice
        self._retry: float | None = None
        self._is_read = False

    def __iter__(self) -> Iterator[Signal]:
        for event in self.events():
            if event["type"] == "signal":
                yield event["signal"]
            else:
                self._on_notice(event)

    def events(self) -> Iterator[Notice]:
        """The same with everything that is no signal; a signal is `signal` of such an event.

        Two who read at once would share the cursor, and each miss what the other was given.
        """
        if self._is_read:
            raise RuntimeError("this stream is being read already: make another one")
        self._is_read = True
        try:
            yield from self._connections()
        finally:
            self._is_read = False

    def _connections(self) -> Generator[Notice, None, None]:
        failures = 0
        while True:
            begun, cursor = time.monotonic(), self.cursor
            error: Exception | None = None
            reason = "lost"
            try:
                reason = yield from self._connection()
            except (ArgoError, *FAULTS) as fault:
                if isinstance(fault, ArgoError) and not fault.temporary:
                    raise
                error = fault
            if time.monotonic() - begun > _STEADY or cursor != self.cursor:
                failures = 0
            pause = self._pause(reason, error, failures)
            failures += 1
            said = reason if error is None else repr(error)
            yield {"type": "dropped", "id": self.cursor, "reason": said, "pause": pause}
            time.sleep(pause)

    def _pause(self, reason: str, error: Exception | None, failures: int) -> float:
        # Whoever was cut off for being slow, or by a restart or another plan, is awaited.
        if failures == 0 and reason in ("slow", "draining", "plan"):
            return 0.0
        if reason in ("unavailable", "replaced"):
            return (self._retry or 0.0) + self._client._pause_after(None, failures)
        return self._client._pause_after(error, failures, self._retry)

    def _connection(self) -> Generator[Notice, None, str]:
        """One connection. Returns why it is over."""
        params = {**self._filters, "since_id": self.cursor}
        with self._client._open("/api/signals/stream", params) as response:
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise ValueError("the stream was answered by something else")
            for name, last_id, data in self._messages(response):
                if name == "end":
                    return self._ended(str(data.get("reason")))
                event = self._take(name, last_id, data)
                if event is not None:
                    yield event
        return "closed"

    def _messages(self, response: httpx.Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Events as this server writes them: each field on one line, data as one line of JSON."""
        fields: dict[str, str] = {}
        for line in lines_of(response):
            if line:
                name, _, value = line.decode().partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            if fields.get("retry", "").isdigit():
                self._retry = int(fields["retry"]) / 1000
            if "data" in fields and fields.get("event") in _EVENTS:
                data = json.loads(fields["data"])
                if not isinstance(data, dict):
                    raise ValueError("the stream was answered by something else")
                yield fields["event"], fields.get("id", ""), data
            fields = {}

    def _ended(self, reason: str) -> str:
        for_good = reason == "unauthorized" or (
            reason == "replaced" and not self._return_when_replaced
        )
        if for_good:
            raise StreamEnded(reason, self.cursor)
        return reason

    def _take(self, name: str, last_id: str, data: dict[str, Any]) -> Notice | None:
        """Moves the cursor. None for what was given before."""
        at = int(last_id)
        before = -1 if self.cursor is None else self.cursor
        # Nothing else goes back: rows were deleted, or it is another file.
        self.cursor = at if name == "ahead" else max(before, at)
        if name == "signal":
            return {"type": name, "id": at, "signal": data} if at > before else None
        if name == "head":
            return {"type": name, "id": at, "head_id": data.get("id")}
        return {**data, "type": name, "id": at}
