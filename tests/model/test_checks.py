import inspect

import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.checks import tokens_of
from memhooks.model.decoding import greedy_continuation
from memhooks.paragraphs.paragraphs import Paragraphs


@pytest.mark.parametrize(
    ("prefix", "n_tokens", "message"),
    [
        (torch.zeros(1, 60, dtype=torch.long), 10, "70 tokens do not fit the model's context of 64"),
        (torch.full((1, 4), 101), 2, r"token ids must lie in 0..100 .* got 101..101"),
        (torch.full((1, 4), -1), 2, "token ids must lie in"),
        (torch.zeros(1, 4, dtype=torch.long), 0, "n_tokens must be at least 1"),
        (torch.zeros(0, 4, dtype=torch.long), 2, "non-empty"),
    ],
)
def test_what_cannot_be_decoded_is_refused(model, prefix, n_tokens, message):
    with pytest.raises(InputError, match=message):
        greedy_continuation(model, prefix, n_tokens=n_tokens)


def test_rows_are_paragraphs_or_tokens():
    tokens = torch.zeros(2, 4, dtype=torch.long)
    assert tokens_of(tokens) is tokens
    assert torch.equal(tokens_of(Paragraphs(tokens, 2)), tokens)
    with pytest.raises(InputError, match=r"expected Paragraphs or an integer tensor .* got list"):
        inspect.unwrap(tokens_of)([1, 2])
