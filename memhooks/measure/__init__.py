"""How much a model recites, and how easily that breaks."""
