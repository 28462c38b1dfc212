"""One vector for each patch and one for each slide: patches go in, features and embeddings come out."""
