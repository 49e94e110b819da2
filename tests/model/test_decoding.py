import torch

from memhooks.model.decoding import greedy_continuation
from memhooks.model.loading import asset


def test_greedy_decoding_equals_hugging_face_on_every_token(neo, model):
    prefix = torch.randint(101, (5, 12), generator=torch.Generator().manual_seed(3))
    theirs = neo.generate(prefix, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)[:, 12:]
    assert torch.equal(greedy_continuation(model, prefix, n_tokens=40), theirs)


def test_greedy_decoding_equals_hugging_face_with_a_tokenizer_attached(organism):
    from transformers import GPTNeoForCausalLM

    neo = GPTNeoForCausalLM.from_pretrained(asset("organism"), dtype=torch.float32).eval()
    prefix = torch.randint(1, 4096, (4, 50), generator=torch.Generator().manual_seed(3))
    theirs = neo.generate(prefix, max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0)[:, 50:]
    assert organism.tokenizer is not None
    assert torch.equal(greedy_continuation(organism, prefix, n_tokens=50), theirs)
