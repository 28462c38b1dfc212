"""Whether summaries still do the work: labelled slides go in, AUCs and their differences come out."""
