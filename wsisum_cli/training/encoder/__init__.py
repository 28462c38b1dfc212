"""Training a patch encoder: tiles go in, an ONNX encoder comes out."""
