"""The replaced service after its tuning: one held connection, limit and filter in SQL."""
import sqlite3

from fastapi import FastAPI, Response
from fastapi_common import dumps, given, serve, signal

start = given()
db = sqlite3.connect(start["db"], check_same_thread=False, cached_statements=128)
db.row_factory = sqlite3.Row
db.execute("PRAGMA query_only = ON")
db.execute("PRAGMA cache_size = -4096")
db.execute("PRAGMA temp_store = MEMORY")
app = FastAPI(openapi_url=None)


@app.get("/api/signals/latest")
async def latest(limit: int = 10):
    rows = db.execute(start["sql"], (limit,)).fetchall()
    return Response(dumps([signal(row) for row in rows]), headers=start["headers"])


serve(app, start["port"])
