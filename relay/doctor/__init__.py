"""What may be wrong with a relay and with what is around it: each check names a cause, and what mends it."""
