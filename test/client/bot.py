"""A bot on the Python client: `bot.py WHAT URL TOKEN [MORE]`. Prints what it is given as JSON."""

import json
import random
import sys
import time

import httpx
from argo_alpine import ArgoError, Client, StreamEnded, to_dataframe

what, url, token, *more = sys.argv[1:]
# Quick to come back.
random.uniform = lambda least, most: 0.02 * most
impatience = float(more[1]) if len(more) > 1 else 5
options = {"backoff": 0.5, "timeout": impatience, "mute": impatience}


def tell(**said):
    print(json.dumps(said), flush=True)


def calls(argo):
    page = argo.latest(limit=2, premium_only=False)
    tell(ids=[signal["id"] for signal in page.signals], head=page.head_id)
    tell(same=argo.latest(premium_only=False, limit=2, symbol=None) is page)
    pages = argo.batch([{"limit": 2, "premium_only": False}, {"symbol": "NOTHING"}])
    tell(batch=[len(each.signals) for each in pages], same=pages[0] is page)
    tell(waited=argo.wait(page, 1) is page)
    for call in (
        lambda: argo.latest(limit=0),
        lambda: argo.latest(limit=1, nonsense=1),
        lambda: argo.batch([{"limit": 1}, {"limit": 0}]),
    ):
        try:
            call()
        except ArgoError as error:
            tell(status=error.status, code=error.code, fields=[e["field"] for e in error.errors])
    for changed in argo.poll(limit=2):
        tell(polled=changed.head_id)


def stream(argo):
    since_id = int(more[0]) if more else None
    following = argo.stream(since_id, on_notice=lambda notice: tell(**notice))
    try:
        for signal in following:
            tell(signal=signal["id"], cursor=following.cursor)
    except StreamEnded as ended:
        tell(ended=ended.reason, cursor=following.cursor)


def export(argo):
    for signal in argo.export(10, on_notice=lambda notice: tell(**notice)):
        tell(id=signal["id"])


def post(argo):
    # Without a timestamp nothing but the key makes two the same.
    rows = [{"symbol": "PY", "action": "HOLD", "confidence": 1, "entry_price": 1}] * 2
    tell(posted=[row["id"] for row in argo.post(rows)])


def foreign(argo):
    for call in (argo.latest, lambda: argo.batch([{}]), lambda: argo.post([])):
        try:
            call()
        except ValueError as error:
            tell(error=str(error))
    tell(error=next(iter(argo.stream().events()))["reason"])


def trickle(_):
    begun = time.monotonic()
    with Client(url, token, deadline=0.5) as argo:
        try:
            argo.latest()
        except httpx.ReadTimeout:
            tell(after=time.monotonic() - begun)


def frame(argo):
    table = to_dataframe(argo.export())
    tell(rows=len(table), dtypes={name: str(kind) for name, kind in table.dtypes.items()})
    tell(newest=int(table.index[-1]), year=int(table["timestamp"].iloc[-1].year))
    none = to_dataframe([])
    alike = none.dtypes.equals(table.dtypes) and none.index.dtype == table.index.dtype
    tell(none=len(none), alike=alike)


with Client(url, token, **options) as client:
    globals()[what](client)
