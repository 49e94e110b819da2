"""Removing a paragraph from the weights, and what it cost."""
