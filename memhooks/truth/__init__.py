"""Is a localization true? Localizers scored against ground truth, the claims put to the test, the published table."""
