"""Signatures of summaries: a file and a key go in; a detached signature, or why one does not hold, comes out."""
