"""Sweeps of edits that redo only the work an edit can change."""
