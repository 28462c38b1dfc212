"""A retention plan: verified summaries and rules go in; out comes a decision with its reason for each slide."""
