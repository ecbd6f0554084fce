"""Values from partials, in NumPy: the same code for a training set and for an online read."""
