"""How does what is measured of a paragraph depend on how often it was read, and how long ago?"""
