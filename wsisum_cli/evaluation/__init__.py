"""Compare classification from summaries with all patches: labelled slides go in, AUCs and differences come out."""
