"""The command line: options and tables, exit codes. typer and rich live here."""
