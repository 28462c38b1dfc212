"""Commands on a folder of summaries as a whole: what is in it, what its state is, what may go."""
