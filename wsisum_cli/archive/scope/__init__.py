"""Which slides of an archive a run is asked for, what they are called, and which failures are known."""
