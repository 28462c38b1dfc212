"""DICOM whole-slide images, PS3.3 and PS3.5: files come in, the levels and tiles of a slide go out."""
