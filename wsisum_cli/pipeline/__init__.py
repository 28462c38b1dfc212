"""One slide through every stage: a job goes in, a verified file and its figures come out. Read `compress` first."""
