"""Features of patches and embeddings of slides: patches go in, one vector per patch and per slide comes out."""
