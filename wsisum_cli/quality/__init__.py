"""How well a selection stands for the tissue: features and picked rows go in, measures and a verdict come out."""
