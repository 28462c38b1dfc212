"""Whether a file may be decoded and its levels believed: sizes and bounds, plausibility, stains, repair of levels."""
