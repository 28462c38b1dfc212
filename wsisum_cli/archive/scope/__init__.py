"""Which slides of an archive a run is asked for, and which failures are known: names go in, decisions come out."""
