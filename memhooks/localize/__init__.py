"""Where in the model a paragraph is kept: gradients, attention, patching, masks."""
