-- How long a project's own journal is kept, where it is not as the relay's settings say: seconds, and bytes of its
-- events. 0 is for ever, and as many as there are.

ALTER TABLE journals ADD COLUMN keep_age_s BIGINT;
ALTER TABLE journals ADD COLUMN keep_bytes BIGINT;
