"""Which slides of an archive a run is asked for, how to name them, and which failures are known."""
