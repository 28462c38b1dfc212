"""Commands that look after an archive and the machine it is made on."""
