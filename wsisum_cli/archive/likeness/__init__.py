"""Slides beside each other: which are most alike, and which show the same glass; summaries in, pairs and ranks out."""
