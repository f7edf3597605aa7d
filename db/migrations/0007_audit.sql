-- What was done, by whom, on what, when and from where, each entry chained to the one before by its hash.
-- Rows are only ever added. details: a JSON object, in its canonical form (RFC 8785). hash: SHA-256, in hexadecimal digits.

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    result TEXT NOT NULL,
    origin TEXT NOT NULL,
    details TEXT NOT NULL,
    hash TEXT NOT NULL
);

-- One row: the last entry. Whoever appends holds it until the commit, so that the order of entries is that of commits.
CREATE TABLE audit_head (
    id SMALLINT PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL
);
INSERT INTO audit_head (id, seq, hash)
    VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');
