"""Runs compiled feature jobs on Flink. What a job means is decided where it is compiled: here are no feature semantics."""
