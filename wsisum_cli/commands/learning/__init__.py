"""The commands that need torch: models of one's own, and whether summaries still do the work."""
