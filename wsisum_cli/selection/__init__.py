"""Which patches to keep: features of all tissue go in, picked rows and their weights come out. Pure and seeded."""
