"""A live widget: change a token or silence heads, and see at once what becomes of one paragraph."""
