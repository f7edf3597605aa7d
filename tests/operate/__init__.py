"""Operating a relay: one server a file, a doctor that names causes, backups, the move from the old router."""
