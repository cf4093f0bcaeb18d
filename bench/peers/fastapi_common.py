"""What both FastAPI peers share: how they are started, and our bytes from their rows."""
import json
import sys

import uvicorn


def given():
    with open(sys.argv[1]) as file:
        return json.load(file)


def number(value):
    """JSON knows one kind of number: JavaScript writes 2874.0 as 2874, so must we."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def signal(row):
    entry, target = number(row["entry_price"]), number(row["target_price"])
    return {
        "id": row["id"],
        "symbol": row["symbol"],
        "action": row["action"],
        "confidence": number(row["confidence"]),
        "price": entry,
        "entry_price": entry,
        "stop_loss": number(row["stop_loss"]),
        "take_profit": target,
        "target_price": target,
        "timestamp": row["timestamp"],
        "strategy": row["strategy"],
        "sha256": row["sha256"],
        "supersedes": row["supersedes"],
    }


def dumps(signals):
    return json.dumps(signals, separators=(",", ":"), ensure_ascii=False)


def serve(app, port):
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools",
        access_log=False, log_level="critical", server_header=False, lifespan="off",
    )
