"""Pictures and plots: summaries go in, PNG images come out."""
