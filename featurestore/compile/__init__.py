"""From the plan to what an engine runs."""
