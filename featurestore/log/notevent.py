"""A payload that cannot be read."""


class NotAnEvent(ValueError):
    """Bytes that are no event at all; the text says why."""
