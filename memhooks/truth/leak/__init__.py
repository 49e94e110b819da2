"""Fine-tuning leakage: what of a user's text becomes extractable, after how many readings, and at which step?"""
