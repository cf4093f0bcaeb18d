"""Signals as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .signals import Signal

if TYPE_CHECKING:
    import pandas


def to_dataframe(signals: Iterable[Signal]) -> pandas.DataFrame:
    """Signals as a DataFrame by `id`, times in UTC; NaT for what a producer wrote that is no time.

    Needs pandas: `pip install argo-alpine[pandas]`.
    """
    import pandas

    frame = pandas.DataFrame(list(signals), columns=list(Signal.__annotations__))
    for name in ("timestamp", "received_at"):
        frame[name] = pandas.to_datetime(frame[name], format="ISO8601", utc=True, errors="coerce")
    return frame.astype({"supersedes": "Int64"}).set_index("id")
