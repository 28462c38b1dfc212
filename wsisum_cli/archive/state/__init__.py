"""What is known of a folder of outputs between runs: journals and reports go in, the state of every slide comes out."""
