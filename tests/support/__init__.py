"""What the tests stand on: servers of their own, and fakes of the ports."""
