"""ONNX models and their cards: a name or a file goes in, a callable that carries its card comes out."""
