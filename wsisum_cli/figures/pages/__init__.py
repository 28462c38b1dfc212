"""Pages: self-contained HTML files that open anywhere and load nothing. Summaries go in, text in HTML comes out."""
