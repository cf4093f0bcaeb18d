"""The replaced service after its tuning: one held connection, limit and filter in SQL, a list for
the framework to serialize. With the word "ready" it writes its own bytes: FastAPI at its best."""
import sqlite3
import sys

from fastapi import FastAPI, Response
from fastapi_common import dumps, given, serve, signal

start = given()
# The framework sets the content type of a list by itself.
own_headers = {k: v for k, v in start["headers"].items() if k.lower() != "content-type"}
db = sqlite3.connect(start["db"], check_same_thread=False, cached_statements=128)
db.row_factory = sqlite3.Row
db.execute("PRAGMA query_only = ON")
db.execute("PRAGMA cache_size = -4096")
db.execute("PRAGMA temp_store = MEMORY")
app = FastAPI(openapi_url=None)


def rows(limit):
    return [signal(row) for row in db.execute(start["sql"], (limit,)).fetchall()]


async def latest(response: Response, limit: int = 10):
    response.headers.update(own_headers)
    return rows(limit)


async def ready(limit: int = 10):
    return Response(dumps(rows(limit)), headers=start["headers"])


app.get("/api/signals/latest")(ready if "ready" in sys.argv else latest)
serve(app, start["port"])
