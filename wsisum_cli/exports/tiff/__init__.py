"""A summary as a pyramidal TIFF: `levels` says what each level shows, `structure` writes the file."""
