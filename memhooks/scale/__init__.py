"""From one laptop to a corpus: what stands in terabytes of text, and what of it a model recites."""
