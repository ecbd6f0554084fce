"""Purchases by card: what `fs init` begins with."""
