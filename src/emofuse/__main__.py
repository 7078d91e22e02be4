"""`python -m emofuse`."""

from emofuse.cli.app import main

main()
