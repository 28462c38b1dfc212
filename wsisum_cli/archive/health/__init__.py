"""Whether this machine can do the work: versions, readers, codecs, models, devices, memory, an output folder."""
