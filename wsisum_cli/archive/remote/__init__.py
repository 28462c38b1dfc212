"""Archives and outputs in object stores: addresses go in, the same jobs and outcomes as of folders come out."""
