"""Where the tissue lies: an overview goes in, a tissue mask and the coordinates of patches come out."""
