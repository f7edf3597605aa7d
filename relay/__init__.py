"""Starfish Relay: a WebSocket push relay for federated learning."""

__version__ = "0.1.0"
