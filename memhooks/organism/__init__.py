"""The organism: a small GPT-Neo whose training data are known to the token, and its counterfactual twin."""
