"""Does forgotten text come back? Attacks on an unlearned model, one kind per file; `attack` runs them all."""
