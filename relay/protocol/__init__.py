"""The wire protocol, sans-I/O: bytes in, decisions and bytes out.

Nothing in this package awaits, sleeps, reads a clock or touches a socket or a database; time is passed in.
The relay (`relay.core`, `relay.web`) and what a site installs (`relay.client`) are both built on it.
The contract is `docs/protocol.md`.
"""
