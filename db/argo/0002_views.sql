-- What those who see signals later than others are answered by.

-- How many rows were inserted at an id that was not above every id before: what is new at the end
-- changes nothing for whom it is withheld, what takes another row's place does.
ALTER TABLE argo_head ADD COLUMN last_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE argo_head ADD COLUMN out_of_order INTEGER NOT NULL DEFAULT 0;

-- Which row falls due next.
CREATE INDEX idx_argo_received_at ON argo_received (received_at);

-- Rows without a `received_at` whose own timestamp said at adoption, or says since a change, that
-- they may still be withheld.
CREATE TABLE argo_dated (id INTEGER PRIMARY KEY, arrived_at TEXT NOT NULL);
CREATE INDEX idx_argo_dated_at ON argo_dated (arrived_at);
