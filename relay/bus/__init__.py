"""How a running relay hears that another process has changed the database it serves."""
