"""What can be extracted: how many queries, how much prefix, how nearly verbatim, and is it recalled or guessed?"""
