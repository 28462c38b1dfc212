"""Training and export of models: features or tiles go in, ONNX files with cards come out. torch lives here."""
