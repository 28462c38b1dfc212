"""Opening slides: a file goes in, a pyramid of tiles, patches of pixels and the pixel size come out."""
