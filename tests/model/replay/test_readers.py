import pytest
import torch

from memhooks.model.replay.clean_run import clean_run
from memhooks.model.replay.edits import token_edits
from memhooks.model.replay.readers import at_token, divergence, divergence_from
from memhooks.model.replay.replay import Edits, replay

FIRST = 10


@pytest.fixture
def tokens():
    return torch.randint(101, (3, 20), generator=torch.Generator().manual_seed(0))


def edited_logits(model, tokens, row, position, token):
    rows = tokens[row].clone()
    rows[torch.arange(len(row)), position] = token
    return model(rows)[:, FIRST - 1 : -1].detach()


def test_readers_equal_full_passes(model, tokens):
    run = clean_run(model, tokens, first=FIRST)
    row, position, token = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 4, 9, 3]), torch.tensor([5, 6, 7, 8])
    scored, right, wrong = torch.tensor([0, 9, 4]), torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    readers = {"kl": divergence(run), "at": at_token(scored, right, wrong)}
    readers["own"] = lambda rows: rows.logits.amax((1, 2))
    readers["by definition"] = divergence_from(model(tokens)[:, FIRST - 1 : -1].detach())
    found = replay(run, token_edits(run, row, position, token[:, None]), readers=readers)
    logits, clean = edited_logits(model, tokens, row, position, token), model(tokens)[:, FIRST - 1 : -1].detach()
    for r in range(4):
        p = row[r]
        logs, reference = logits[r].log_softmax(-1), clean[p].log_softmax(-1)
        kl = sum((reference[t].exp() * (reference[t] - logs[t])).sum() for t in range(10)) / 10
        for name in ("kl", "by definition"):
            torch.testing.assert_close(found.read[name][r], kl, rtol=1e-5, atol=1e-5)
        at = logs[scored[p]]
        expected = torch.stack([-at[right[p]], -at[wrong[p]], at[right[p]] - at[wrong[p]]])
        torch.testing.assert_close(found.read["at"][r], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.read["own"][r], logits[r].max(), rtol=1e-5, atol=1e-5)


def test_an_edit_inside_the_continuation_shows_readers_all_scored_positions(model, tokens):
    run = clean_run(model, tokens, first=FIRST)
    edits = Edits(2, torch.tensor([1]), torch.tensor([15]), torch.randn(1, 1, 32))
    found = replay(run, edits, readers={"shape": lambda rows: rows.logits[:, 0, 0]})
    torch.testing.assert_close(found.read["shape"][0], model(tokens)[1, FIRST - 1, 0].detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.nll[:, :5], run.outcome.nll[[1], :5])


def test_nothing_changed_is_no_divergence(model, tokens):
    run = clean_run(model, tokens, first=FIRST)
    same = token_edits(run, torch.arange(3), torch.zeros(3, dtype=torch.long), tokens[:, :1])
    assert abs(replay(run, same, readers={"kl": divergence(run)}).read["kl"]).max() == 0
