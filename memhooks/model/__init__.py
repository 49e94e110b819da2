"""The hooked model: loading, components, hooks, decoding and labelled results."""
