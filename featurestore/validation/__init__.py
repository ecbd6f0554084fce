"""Judging rows by what is expected of them: three engines, one verdict; what is kept of it, and what is done about it."""
