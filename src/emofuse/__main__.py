"""`python -m emofuse`."""

from emofuse.cli import main

main()
