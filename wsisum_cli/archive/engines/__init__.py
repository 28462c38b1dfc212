"""Where the slides of a run are worked on: what this machine offers, and clusters that the user runs."""
