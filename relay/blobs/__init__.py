"""The store of large things: a local directory."""
