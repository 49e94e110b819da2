"""Token paragraphs: what is measured, where it came from and how it is split."""
