import torch

from memhooks.model.provenance import model_hash, tensor_hash


def test_the_hash_changes_with_any_single_weight_and_comes_back(model):
    before = model_hash(model)
    for name in ("blocks.3.mlp.W_out", "embed.W_E", "blocks.0.attn.b_O"):
        weight = dict(model.named_parameters())[name]
        old = weight.detach().flatten()[-1].clone()
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3
            assert model_hash(model) != before
            weight.view(-1)[-1] = old
        assert model_hash(model) == before


def test_equal_values_of_another_shape_hash_differently():
    assert tensor_hash(torch.zeros(2, 3)) != tensor_hash(torch.zeros(3, 2))
    assert tensor_hash(torch.zeros(2, 3, dtype=torch.bfloat16)) == tensor_hash(torch.zeros(2, 3, dtype=torch.bfloat16))
