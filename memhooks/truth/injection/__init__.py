"""Localizers held against weights into which a text was written, and what is lost when their weights are dropped.

After Chang et al. (2024), arXiv:2311.09060: INJ asks whether a localizer finds the weights, DEL what they hold.
"""
