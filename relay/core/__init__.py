"""What the relay does: projects, runs, messages, and who gets to see them live.

Everything here works against the ports of `relay.core.ports`; nothing here knows Starlette, SQL or a bus.
"""
