"""The server: HTTP and WebSocket over the core. `relay.web.app` puts everything together."""
