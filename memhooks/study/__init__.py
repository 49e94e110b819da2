"""The organism's whole study: settings, stages, results and report."""
