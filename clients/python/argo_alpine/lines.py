"""Lines of an answer as they come."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

#: The longest line that is taken, bytes.
_LENGTH_MAX = 4 * 1024 * 1024


def lines_of(response: httpx.Response) -> Iterator[bytes]:
    """Lines that end with a line feed alone: text may hold others, which httpx would break at."""
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LENGTH_MAX:
            raise ValueError("a line is too long")
        yield from (line.removesuffix(b"\r") for line in lines)
    if rest:
        yield rest
