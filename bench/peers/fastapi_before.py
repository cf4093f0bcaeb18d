"""The replaced service as it was: a connection per request, all recent rows, filtered in Python,
a list for the framework to serialize."""
import sqlite3

from fastapi import FastAPI, Response
from fastapi_common import given, serve, signal

start = given()
# The framework sets the content type of a list by itself.
own_headers = {k: v for k, v in start["headers"].items() if k.lower() != "content-type"}
app = FastAPI(openapi_url=None)


@app.get("/api/signals/latest")
async def latest(response: Response, limit: int = 10, min_confidence: float = 0.0):
    db = sqlite3.connect(start["db"])
    try:
        db.row_factory = sqlite3.Row
        rows = db.execute(start["sql"], (start["recentRows"],)).fetchall()
    finally:
        db.close()
    signals = [signal(row) for row in rows]
    response.headers.update(own_headers)
    return [s for s in signals if s["confidence"] >= min_confidence][:limit]


serve(app, start["port"])
