"""Does the Bridge of TransformerLens 4 pass memhooks' audit on GPT-Neo yet? Run it with `make audit-bridge`.

In TransformerLens 4.3 edits of `pattern` and `attn_scores` fire and change nothing, and a
returned `resid_mid` reaches the MLP alone. This exits with 1 on the day any of them passes: then
a backend on the Bridge can be thought about.
"""

import sys
import tempfile
from importlib.metadata import version

import torch
from transformer_lens.model_bridge import TransformerBridge  # noqa: TID251 - the thing under test
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.model.audit import audit
from memhooks.model.audit_result import summarized

EXPECTED = {"pattern", "attn_scores", "resid_mid"}


def small_bridge() -> TransformerBridge:
    """A random GPT-Neo with weights large enough for edits to show."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=101,
        hidden_size=32,
        num_layers=4,
        attention_types=[[["global", "local"], 2]],
        num_heads=4,
        window_size=8,
        max_position_embeddings=64,
        intermediate_size=96,
    )
    model = GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu")


def main() -> None:
    """Print the audit's table and compare the failing sites with those that are known."""
    result = audit(small_bridge())
    for row in summarized(result):
        sys.stdout.write("  ".join(map(str, row.values())) + "\n")
    sys.stdout.write(f"TransformerLens {version('transformer-lens')}: {result}\n")
    passed = EXPECTED - set(result.failed_sites)
    if passed:
        sys.stdout.write(f"now honoured: {', '.join(sorted(passed))}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
