"""Signals as the server gives them."""

from __future__ import annotations

from typing import TypedDict


class Signal(TypedDict, total=False):
    """`received_at` is absent from polls; everything may be null that an engine left out."""

    id: int
    symbol: str
    action: str
    confidence: float | None
    price: float | None
    entry_price: float | None
    stop_loss: float | None
    take_profit: float | None
    target_price: float | None
    timestamp: str | None
    strategy: str
    sha256: str
    supersedes: int | None
    received_at: str | None


class Accepted(TypedDict):
    """What became of a signal that was posted."""

    id: int
    sha256: str
    duplicate: bool
