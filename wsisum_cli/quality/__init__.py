"""How well a selection represents the tissue: features and picked rows go in, figures and a verdict come out."""
