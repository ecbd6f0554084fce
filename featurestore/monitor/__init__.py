"""Watching what is kept and served: what was observed, what that means, who is told, and what is done about it."""
