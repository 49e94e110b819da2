"""Does forgotten text come back? Attacks on an unlearned model, one kind per file; `attack.attack` runs them all."""
