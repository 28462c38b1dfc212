"""What a summary stores as streams: bytes of members go in, images come out."""
