"""What the relay promises when things break: killed processes, cut sockets, stalled readers, a lost database.

All of it is black-box: the relay is a process of its own, and the truth is the journal as `history.read` shows it.
"""
