"""Commands that make something of summaries: other files, fewer patches, further features."""
