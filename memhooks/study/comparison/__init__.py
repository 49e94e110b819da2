"""Which way to unlearn costs least? Every method tuned with the same budget, judged on other paragraphs."""
