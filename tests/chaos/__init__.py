"""Sites at work through `relay.client` while everything around them breaks; and the named accidents, replayed."""
