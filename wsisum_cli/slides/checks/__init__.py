"""Whether a file may be decoded and its levels believed: bounds, plausibility and repair of levels."""
