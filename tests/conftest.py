"""Small random GPT-Neos built offline, and the bundled pair, loaded once; the order of the files."""

import copy
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
"""`HYPOTHESIS_PROFILE=thorough pytest` draws more examples and compares all rows of the bundled sets; slow."""

settings.register_profile("few", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("thorough" if THOROUGH else "few")

LONGEST_FILES = (
    "test_study.py",
    "test_comparison.py",
    "test_readme.py",
    "test_docs.py",
    "test_doctests.py",
    "test_recitation.py",
    "test_cli.py",
    "test_study_looking.py",
)
"""They start first, so that no process is left alone with one of them at the end."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """The longest files first. Files stay whole: `--dist=loadfile` makes a module's fixtures in one process alone."""
    place = {name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def examples(n):
    """How many examples a slow property is tried on: n when thorough, else a third."""
    return n if THOROUGH else max(5, n // 3)


def tiny_neo(*, seed=0, window=8, n_ctx=64, layers=4, d_model=32, heads=4, d_mlp=96, vocab=101, scale=3.0):
    """A random GPT-Neo whose weights are large enough that predictions differ and ties do not occur."""
    torch.manual_seed(seed)
    config = GPTNeoConfig(
        vocab_size=vocab,
        hidden_size=d_model,
        num_layers=layers,
        attention_types=[[["global", "local"], layers // 2]],
        num_heads=heads,
        window_size=window,
        max_position_embeddings=n_ctx,
        intermediate_size=d_mlp,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale).add_(0.02 * torch.randn_like(weight))  # norms and biases are not trivial either
    return model


@pytest.fixture(scope="session")
def neo_source():
    return tiny_neo()


@pytest.fixture
def neo(neo_source):
    return copy.deepcopy(neo_source)


@pytest.fixture(scope="session")
def hooked_source(neo_source):
    return load_model(copy.deepcopy(neo_source))


@pytest.fixture
def model(hooked_source):
    """A hooked tiny GPT-Neo that a test may change."""
    return copy.deepcopy(hooked_source)


@pytest.fixture
def paragraphs():
    """Six random paragraphs of 24 tokens, prefix 12."""
    tokens = torch.randint(101, (6, 24), generator=torch.Generator().manual_seed(1))
    return Paragraphs(tokens, n_prefix=12)


@pytest.fixture(scope="session")
def organism():
    return load_model("organism")


@pytest.fixture(scope="session")
def twin():
    return load_model("organism-twin")


@pytest.fixture
def shared_data():
    """Real GPT-Neo paragraphs that lie beside a checkout for verification; never part of the project."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside this checkout")
    return SHARED
