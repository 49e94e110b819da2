import torch
from torch.nn import functional

from memhooks.localize.objectives import continuation_logits, continuation_nll, forget_nll, retain_kl, token_nll


def test_nll_equals_ten_slow_lines(neo, model, paragraphs):
    total, n = 0.0, 0
    for row in paragraphs.tokens:
        with torch.no_grad():
            log_p = neo(row[None]).logits[0].log_softmax(-1)
        for pos in range(12, 24):
            total -= log_p[pos - 1, row[pos]].item()
            n += 1
    torch.testing.assert_close(
        continuation_nll(model, paragraphs).detach(), torch.tensor(total / n), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(forget_nll(model, paragraphs), -continuation_nll(model, paragraphs))
    assert token_nll(model, paragraphs.tokens, first=1).shape == (6, 23)


def test_kl_is_the_mean_over_positions_of_torchs_own(model, paragraphs):
    frozen = torch.randn(6, 12, 101, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    found = retain_kl(model, paragraphs, frozen)
    ours = continuation_logits(model, paragraphs.tokens, first=12).log_softmax(-1)
    summed = functional.kl_div(ours.flatten(0, 1), frozen.flatten(0, 1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(found, summed, rtol=1e-5, atol=1e-5)


def test_kl_to_itself_is_zero_and_so_is_its_gradient(model, paragraphs):
    frozen = continuation_logits(model, paragraphs.tokens, first=12).log_softmax(-1).detach()
    kl = retain_kl(model, paragraphs, frozen)
    (gradient,) = torch.autograd.grad(kl, [model.blocks[1].mlp.W_in])
    assert abs(kl.item()) < 1e-6
    assert gradient.abs().max() < 1e-6
