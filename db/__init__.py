"""The relay's storage: one schema and one set of queries, on SQLite (one file) and on PostgreSQL.

`Store` (in `db.store`) serves the ports of `relay.core.ports`. SQL stands here and nowhere else.
"""
