"""A project with nothing in it yet."""
