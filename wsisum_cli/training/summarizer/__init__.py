"""Training a summarizer (WSISum): patch features and slide embeddings go in, an ONNX summarizer comes out."""
