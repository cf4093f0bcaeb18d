-- What was deleted for its age, so that the same content posted again is still known by its old
-- id. `content` is our hash of it; `sha256` the one that was shown, where that was another.
CREATE TABLE argo_forgotten (
    content BLOB PRIMARY KEY,
    id INTEGER NOT NULL,
    sha256 TEXT
) WITHOUT ROWID;
