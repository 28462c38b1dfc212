"""Checking summary slides: a summary, and its slide where it is at hand, go in; findings come out."""
