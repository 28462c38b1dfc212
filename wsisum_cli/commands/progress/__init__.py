"""What people and logs see of a run while it goes on: bars, lines, a log file, the time left."""
