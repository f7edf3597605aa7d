-- What a batch was started with (policy: JSON), and how it stands with it. `deadlines` goes on saying when it is due.
-- queued: it has not begun, and has no runs. since_us: when it was queued, and once begun, when its round began.
-- lost_us: since when its coordinator has been away.

CREATE TABLE policies (
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    batch BIGINT NOT NULL,
    policy TEXT NOT NULL,
    queued BOOLEAN NOT NULL,
    since_us BIGINT NOT NULL,
    lost_us BIGINT,
    PRIMARY KEY (project_id, batch)
);

INSERT INTO policies (project_id, batch, policy, queued, since_us)
    SELECT project_id, batch, '{}', FALSE, due_us FROM deadlines;
