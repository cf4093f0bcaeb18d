"""Signals as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .signals import Signal

if TYPE_CHECKING:
    import pandas


_TEXTS = ("symbol", "action", "strategy", "sha256")
_NUMBERS = ("confidence", "price", "entry_price", "stop_loss", "take_profit", "target_price")
_TIMES = ("timestamp", "received_at")


def to_dataframe(signals: Iterable[Signal]) -> pandas.DataFrame:
    """Signals as a DataFrame by `id`, its columns of the same types whatever is in them, or nothing.

    Times are in UTC, to the microsecond: NaT for what a producer wrote that is no time. Needs
    pandas: `pip install './clients/python[pandas]'`.
    """
    import pandas

    frame = pandas.DataFrame(list(signals), columns=list(Signal.__annotations__))
    for name in _TIMES:
        times = pandas.to_datetime(frame[name], format="ISO8601", utc=True, errors="coerce")
        frame[name] = times.dt.as_unit("us")
    kinds = dict.fromkeys(_TEXTS, "str") | dict.fromkeys(_NUMBERS, "float64")
    return frame.astype({**kinds, "id": "int64", "supersedes": "Int64"}).set_index("id")
