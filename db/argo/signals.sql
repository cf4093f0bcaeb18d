-- The table of the engine that this server replaces, and nothing more strict: the engine may go
-- on writing into a file that this server made.
CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    symbol TEXT NOT NULL,
    action TEXT NOT NULL,
    entry_price REAL NOT NULL,
    target_price REAL,
    stop_price REAL,
    confidence REAL NOT NULL,
    strategy TEXT DEFAULT 'weighted_consensus',
    timestamp TEXT NOT NULL,
    sha256 TEXT
)
