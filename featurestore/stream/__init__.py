"""The embedded stream."""
