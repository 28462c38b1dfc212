"""A tree of slides: folders and a manifest go in, jobs, outcomes and a report come out."""
