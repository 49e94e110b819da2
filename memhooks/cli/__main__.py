"""`python -m memhooks.cli` is `memhooks`."""

from memhooks.cli import main

main()
