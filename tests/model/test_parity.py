import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.loading import load_model


def test_a_setting_the_conversion_does_not_know_is_named_by_its_layer(neo):
    neo.transformer.h[2].mlp.act = torch.nn.ReLU()
    with pytest.raises(InputError, match=r"differs from Hugging Face by .* first at layer 2"):
        load_model(neo)


@pytest.mark.parametrize("processed", [False, True])
def test_the_first_differing_layer_may_be_the_last(neo, processed):
    neo.transformer.h[3].mlp.act = torch.nn.ReLU()
    with pytest.raises(InputError, match="first at layer 3 or the unembedding"):
        load_model(neo, processed=processed)
