"""Two models forked from one trunk: where their weights differ lies what only one of them recites."""
