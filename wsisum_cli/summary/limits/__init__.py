"""What a summary may claim: a file's sizes, metadata and text go in, and are refused or made safe before use."""
