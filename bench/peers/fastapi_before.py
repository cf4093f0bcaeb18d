"""The replaced service as it was: a connection per request, all recent rows, filtered in Python."""
import sqlite3

from fastapi import FastAPI, Response
from fastapi_common import dumps, given, serve, signal

start = given()
app = FastAPI(openapi_url=None)


@app.get("/api/signals/latest")
async def latest(limit: int = 10, min_confidence: float = 0.0):
    db = sqlite3.connect(start["db"])
    try:
        db.row_factory = sqlite3.Row
        rows = db.execute(start["sql"], (start["recentRows"],)).fetchall()
    finally:
        db.close()
    signals = [signal(row) for row in rows]
    signals = [s for s in signals if s["confidence"] >= min_confidence][:limit]
    return Response(dumps(signals), headers=start["headers"])


serve(app, start["port"])
