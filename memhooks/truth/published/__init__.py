"""The published table: every number of the paper that given files allow, beside what is measured, with a verdict.

1. `targets`: the published numbers as data. 2. `files`: what a folder holds. 3. One file per quantity measures it in
parts, which a run folder keeps. 4. `verdicts`: reproduced, not reproduced, or not compared and why.
"""
