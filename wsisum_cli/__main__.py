"""`python -m wsisum_cli` is `wsisum`."""

from wsisum_cli.commands.main import main

if __name__ == "__main__":
    main()
