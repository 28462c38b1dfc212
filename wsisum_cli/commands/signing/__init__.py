"""Signing on the command line: keys and their passwords, and signatures beside what was written."""
