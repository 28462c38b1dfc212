"""Training a slide encoder (SLPD): features of slides go in, an ONNX slide encoder comes out."""
