import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.hook_sweep import hook_sweep
from memhooks.model.hooks import hooked


def double(x, hook):
    return 2 * x


def zero_(x, hook):
    x[:, 20] = 0


def loss(logits):
    return logits[:, -1].logsumexp(-1)


EDITS = {
    "double an embedding": [("hook_embed", double)],
    "double a layer": [(("attn_out", 2), double)],
    "zero a position": [(("resid_pre", 3), zero_)],
    "two places": [(("z", 1), double), (("mlp_out", 3), double)],
    "the end": [("ln_final.hook_normalized", double)],
}


@pytest.mark.parametrize("batch_size", [None, 4])
def test_every_edit_equals_a_plain_pass_with_its_hooks(model, paragraphs, batch_size):
    found = hook_sweep(model, paragraphs, EDITS, loss, batch_size=batch_size)
    for name, edit in EDITS.items():
        with hooked(model, edit), torch.no_grad():
            slow = loss(model(paragraphs.tokens))
        assert found["metric"].sel(row=name).values == pytest.approx(slow.numpy(), rel=1e-5, abs=1e-5)
    assert found["unedited"].values == pytest.approx(loss(model(paragraphs.tokens)).detach().numpy(), abs=1e-5)
    assert abs(found["change"]).min("paragraph").values.min() > 1e-6


def test_a_pass_begins_at_the_lowest_layer_with_a_hook(model, paragraphs, monkeypatch):
    starts, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: (starts.append(k.get("start_at_layer")), forward(*a, **k))[1])
    hook_sweep(model, paragraphs, EDITS, loss)
    assert starts == [None, None, None, 1, None, 2, None, 3, 3]


def test_hooks_that_are_there_already_take_part(model, paragraphs):
    edit = {"double": EDITS["double a layer"]}
    intact = hook_sweep(model, paragraphs, edit, loss)
    with hooked(model, [(("z", 0), double)]):
        found = hook_sweep(model, paragraphs, edit, loss)
        with hooked(model, edit["double"]), torch.no_grad():
            slow = loss(model(paragraphs.tokens))
    assert found["metric"].values[:, 0] == pytest.approx(slow.numpy(), abs=1e-5)
    assert abs(found["metric"] - intact["metric"]).max() > 1e-4


@pytest.mark.parametrize(
    ("edits", "metric", "message"),
    [
        ({}, loss, "no edits given, or not by name"),
        ([(("z", 0), double)], loss, "no edits given, or not by name"),
        ({"a": (("z", 0), double)}, loss, "edit 'a' is no list of pairs"),
        ({"a": EDITS["the end"]}, lambda logits: logits.mean(), r"one number for each of 6 rows, got \(\)"),
        ({"a": EDITS["the end"]}, lambda logits: 3.0, "got float"),
        ({"a": [("nowhere", double)]}, loss, "nowhere"),
    ],
)
def test_what_cannot_be_swept_is_refused(model, paragraphs, edits, metric, message):
    import inspect

    with pytest.raises(InputError, match=message):
        inspect.unwrap(hook_sweep)(model, paragraphs, edits, metric)


def test_a_batch_of_nothing_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        hook_sweep(model, paragraphs, EDITS, loss, batch_size=0)
