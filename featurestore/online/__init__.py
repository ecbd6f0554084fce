"""Online stores: where the latest bytes of every entity lie, and how they are read in one round trip."""
