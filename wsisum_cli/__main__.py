"""`python -m wsisum_cli` is `wsisum`."""

from wsisum_cli.cli import main

if __name__ == "__main__":
    main()
