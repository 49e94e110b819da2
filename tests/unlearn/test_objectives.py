"""Every objective against ten slow lines on Hugging Face's logits. Rows are of equal length: there is no padding."""

import copy
from dataclasses import replace
from functools import partial
from math import exp, log

import pytest
import torch

from memhooks.localize.objectives import CHANGE_WEIGHT, continuation_logits, contrastive
from memhooks.measure.pairs import Pairs, make_pairs
from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives import (
    DPO,
    NPO,
    OBJECTIVES,
    BoundedAscent,
    GradientAscent,
    PaperEdit,
    PaperEditMisaligned,
    PaperUnlearn,
    SimNPO,
    WeightedAscent,
)
from memhooks.unlearn.objectives.pairing import _UniformById
from memhooks.unlearn.objectives.term import BATCH
from memhooks.unlearn.retain_terms import RETAIN

PAIRED = {"paper_edit": PaperEdit, "paper_edit_misaligned": PaperEditMisaligned, "dpo": DPO}


@pytest.fixture(scope="module")
def before(neo_source):
    """Hugging Face's model before the first step, surer of what it says, in float64."""
    neo = copy.deepcopy(neo_source)
    with torch.no_grad():
        neo.transformer.ln_f.weight.mul_(3)
    return neo.double()


@pytest.fixture(scope="module")
def moved(before):
    """The same after some unlearning."""
    other = copy.deepcopy(before)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return other


@pytest.fixture(scope="module")
def model(before):
    return load_model(before, dtype=torch.float64)


@pytest.fixture(scope="module")
def after(moved):
    return load_model(moved, dtype=torch.float64)


@pytest.fixture
def paragraphs(model, paragraphs):
    """What the model says itself, but for every third token: some tokens likely, some not."""
    own = with_own_continuation(model, paragraphs).continuation
    own[:, 2::3] = paragraphs.continuation[:, 2::3]
    return paragraphs.with_continuation(own)


@pytest.fixture
def pairs(paragraphs):
    """Planted ones: token 3 replaced, another continuation from its second token on."""
    tokens = paragraphs.tokens.clone()
    tokens[:, 3] = (tokens[:, 3] + 7) % 101
    tokens[:, 13:] = (tokens[:, 13:] + torch.arange(1, 12)) % 101
    six = torch.ones(6, dtype=torch.long)
    return Pairs(paragraphs, replace(paragraphs, tokens=tokens), 3 * six, 13 * six)


def objective(name, pairs):
    """As in OBJECTIVES, but with planted pairs, and a SimNPO that has not yet faded at the NLL of these paragraphs."""
    if name == "simnpo":
        return SimNPO(beta=0.5, delta=4.0)
    return PAIRED[name](pairs=pairs) if name in PAIRED else OBJECTIVES[name]


def hf_logits(neo, rows):
    """What predicts the continuations, straight from Hugging Face's model."""
    with torch.no_grad():
        return neo(rows.tokens).logits[:, rows.n_prefix - 1 : -1].double()


def slow_nll(neo, context, labels):
    """Surprise at each continuation token of `labels` after the tokens of `context`, one by one."""
    with torch.no_grad():
        log_p = neo(context[None]).logits[0].double().log_softmax(-1)
    return [-log_p[pos - 1, labels[pos]].item() for pos in range(12, 24)]


def sigmoid(x):
    return 1 / (1 + exp(-x))


def slow_value(name, before, after, clean, perturbed):
    """The loss of one paragraph: two models, and rows of 12 + 12 tokens."""
    nll, old = slow_nll(after, clean, clean), slow_nll(before, clean, clean)
    joined = torch.cat([clean[:12], perturbed[12:]])
    win, old_win = slow_nll(after, joined, joined), slow_nll(before, joined, joined)
    mean = sum(nll) / 12
    formulas = {
        "gradient_ascent": lambda: -mean,
        "gradient_difference": lambda: -mean,
        "paper_unlearn": lambda: -0.1 * mean,
        "paper_edit": lambda: 0.1 * sum(slow_nll(after, perturbed, perturbed)) / 12,
        "paper_edit_misaligned": lambda: 0.1 * sum(slow_nll(after, clean, perturbed)) / 12,
        "npo": lambda: -2 / 0.1 * log(sigmoid(-0.1 * (-sum(nll) + sum(old)))),
        "simnpo": lambda: -2 / 0.5 * log(sigmoid(0.5 * (mean - 4.0))),
        "dpo": lambda: -2 / 0.1 * log(sigmoid(0.1 * ((-sum(win) + sum(old_win)) - (-sum(nll) + sum(old))))),
        "weighted_ascent": lambda: -sum(exp(-one) * one for one in nll) / 12,
        "bounded_ascent": lambda: sum(max(0.0, 2.0 - one) for one in nll) / 12,
    }
    return formulas[name]()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_equals_its_formula_on_hugging_faces_logits(before, moved, model, paragraphs, pairs, name):
    term = objective(name, pairs)(model, paragraphs, seed=0)
    found = term.loss(hf_logits(moved, term.rows))
    rows = zip(pairs.clean.tokens, pairs.perturbed.tokens, strict=True)
    slow = [slow_value(name, before, moved, clean, perturbed) for clean, perturbed in rows]
    assert found.shape == (6,)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_equal_central_differences(model, after, paragraphs, pairs, name):
    term = objective(name, pairs)(model, paragraphs, seed=0)
    after = copy.deepcopy(after)
    weights = [after.blocks[0].attn.W_V, after.blocks[1].mlp.W_in, after.blocks[3].mlp.W_out]
    loss = term.loss
    if name == "weighted_ascent":  # no gradient flows through its weights: a constant of where we are
        first = _nll(continuation_logits(after, term.rows), paragraphs).detach()
        loss = lambda logits: -((-first).exp() * _nll(logits, paragraphs)).mean(1)  # noqa: E731
    gradients = torch.autograd.grad(term.loss(continuation_logits(after, term.rows)).mean(), weights)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        ways = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                [weight.add_(way, alpha=step) for weight, way in zip(weights, ways, strict=True)]
                ends.append(loss(continuation_logits(after, term.rows)).mean().item())
                [weight.add_(way, alpha=-step) for weight, way in zip(weights, ways, strict=True)]
        slope = sum((gradient * way).sum().item() for gradient, way in zip(gradients, ways, strict=True))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)
        assert abs(slope) > 1e-4


def _nll(logits, paragraphs):
    return -logits.log_softmax(-1).gather(-1, paragraphs.continuation[..., None])[..., 0]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("given", [True, False])
def test_terms_of_parts_give_the_losses_of_the_whole(model, after, paragraphs, pairs, name, given):
    made = objective(name, pairs) if given else OBJECTIVES[name]

    def losses(part):
        term = made(model, part, seed=4)
        return term.loss(continuation_logits(after, term.rows)).detach()

    parts = [losses(paragraphs.select(rows)) for rows in ([0, 1, 2], [3], [5, 4])]
    torch.testing.assert_close(torch.cat(parts), losses(paragraphs)[[0, 1, 2, 3, 5, 4]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_loss_is_of_its_own_rows_alone(model, paragraphs, pairs, name):
    term = objective(name, pairs)(model, paragraphs, seed=0)
    logits = continuation_logits(model, term.rows).detach()
    changed = logits.clone()
    changed[2::6] = torch.randn(logits[2::6].shape, generator=torch.Generator().manual_seed(0))
    differs = term.loss(changed) != term.loss(logits)
    assert differs.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_to_forget_are_the_paragraphs_in_order(model, paragraphs, pairs, name):
    term = objective(name, pairs)(model, paragraphs, seed=0)
    if name == "paper_edit":
        assert term.forget is None
        assert torch.equal(term.rows.tokens, pairs.perturbed.tokens)
    else:
        assert torch.equal(term.rows.tokens[term.forget], paragraphs.tokens)
    assert term.rows.n_prefix == paragraphs.n_prefix


def test_dpo_runs_the_winners_after_the_original_prefix(model, paragraphs, pairs):
    rows = DPO(pairs=pairs)(model, paragraphs, seed=0).rows
    assert torch.equal(rows.tokens[6:, :12], paragraphs.prefix)
    assert torch.equal(rows.tokens[6:, 12:], pairs.perturbed.continuation)
    assert len(set(rows.ids)) == 12


def test_the_papers_objective_with_its_weight_is_contrastive(model, after):
    """Continuations of 50 tokens: there the published sum over tokens is a retain weight of 50."""
    tokens = torch.randint(101, (5, 60), generator=torch.Generator().manual_seed(3))
    forget, keep = (Paragraphs(some, n_prefix=10) for some in tokens.split([2, 3]))
    change, retain = PaperUnlearn()(model, forget, seed=0), RETAIN[PaperUnlearn.retain](model, keep)
    logits, keep_logits = continuation_logits(after, forget), continuation_logits(after, keep)
    found = change.loss(logits).mean() + PaperUnlearn.retain_weight * retain.loss(keep_logits).mean()
    frozen = continuation_logits(model, keep).log_softmax(-1)
    torch.testing.assert_close(found, contrastive(logits, forget, keep_logits, frozen), rtol=1e-6, atol=1e-6)
    assert change.loss(logits).mean().item() == pytest.approx(-CHANGE_WEIGHT * _nll(logits, forget).mean().item())


@pytest.mark.parametrize("name", PAIRED)
def test_without_pairs_they_are_made_from_the_seed_as_make_pairs_does(model, paragraphs, name):
    effect = perturb(model, paragraphs, seed=0, replace=_UniformById(3))
    given = PAIRED[name](pairs=make_pairs(model, paragraphs, effect))(model, paragraphs, seed=0)
    made = PAIRED[name]()(model, paragraphs, seed=3)
    logits = continuation_logits(model, given.rows).detach()
    assert torch.equal(made.rows.tokens, given.rows.tokens)
    torch.testing.assert_close(made.loss(logits), given.loss(logits))
    other = PAIRED[name]()(model, paragraphs, seed=4)
    assert not torch.equal(other.loss(logits), made.loss(logits))


def test_pairs_of_more_paragraphs_are_found_by_id(model, paragraphs, pairs):
    some = paragraphs.select([4, 1])
    assert torch.equal(PaperEdit(pairs=pairs)(model, some, seed=0).rows.tokens, pairs.perturbed.tokens[[4, 1]])


def test_npo_with_a_small_beta_has_the_gradient_of_gradient_ascent(model, after, paragraphs):
    """Of the sum over tokens, twelve times that of their mean."""
    weight = after.blocks[1].mlp.W_in
    logits = continuation_logits(after, paragraphs)
    ascent = GradientAscent()(model, paragraphs, seed=0).loss(logits).mean()
    limit = NPO(beta=1e-9)(model, paragraphs, seed=0).loss(logits).mean()
    (ours,) = torch.autograd.grad(limit, weight, retain_graph=True)
    (theirs,) = torch.autograd.grad(ascent, weight, retain_graph=True)
    torch.testing.assert_close(ours, 12 * theirs, rtol=1e-5, atol=1e-7)
    (damped,) = torch.autograd.grad(NPO(beta=0.5)(model, paragraphs, seed=0).loss(logits).mean(), weight)
    assert not torch.allclose(damped, 12 * theirs, rtol=0.1)


@pytest.mark.parametrize("drop", [1e4, -1e4])
def test_preferences_stay_finite_however_far_the_model_has_moved(model, paragraphs, pairs, drop):
    for made in (NPO(), SimNPO(), DPO(pairs=pairs)):
        term = made(model, paragraphs, seed=0)
        logits = continuation_logits(model, term.rows).detach()
        true = term.rows.continuation[:6, :, None]
        logits[:6] = logits[:6].scatter_add(-1, true, torch.full(true.shape, -drop, dtype=logits.dtype))
        logits.requires_grad_()
        losses = term.loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert torch.isfinite(losses).all()
        assert torch.isfinite(gradient).all()


def test_weights_of_weighted_ascent_carry_no_gradient(model, paragraphs):
    logits = continuation_logits(model, paragraphs).detach().requires_grad_()
    (ours,) = torch.autograd.grad(WeightedAscent(beta=2.0)(model, paragraphs, seed=0).loss(logits).sum(), logits)
    nll = _nll(logits, paragraphs)
    (slow,) = torch.autograd.grad(-((-2 * nll.detach()).exp() * nll).mean(1).sum(), logits, retain_graph=True)
    (through,) = torch.autograd.grad(-((-2 * nll).exp() * nll).mean(1).sum(), logits)
    torch.testing.assert_close(ours, slow)
    assert not torch.allclose(ours, through)


def test_bounded_ascent_pushes_only_what_is_below_its_goal(model, paragraphs):
    logits = continuation_logits(model, paragraphs).detach().requires_grad_()
    nll = _nll(logits, paragraphs).detach()
    goal = float(nll.flatten().sort().values[35])  # one token is just at its goal
    term = BoundedAscent(goal=goal)(model, paragraphs, seed=0)
    (gradient,) = torch.autograd.grad(term.loss(logits).sum(), logits)
    assert torch.equal(gradient.abs().amax(-1) > 0, nll < goal)
    assert int((nll < goal).sum()) == 35
    reached = BoundedAscent(goal=0.0)(model, paragraphs, seed=0)
    assert reached.loss(logits).tolist() == [0.0] * 6


def test_goals_of_paragraphs_tokens_and_of_a_twin(model, after, paragraphs):
    twin, logits = after, continuation_logits(model, paragraphs).detach()
    nll, theirs = _nll(logits, paragraphs), _nll(continuation_logits(twin, paragraphs).detach(), paragraphs)
    slow = torch.stack([(goal - own).clamp(min=0).mean() for goal, own in zip(theirs, nll, strict=True)])
    for goal in (twin, theirs):
        found = BoundedAscent(goal=goal)(model, paragraphs, seed=0).loss(logits)
        torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)
    each = theirs.mean(1)
    found = BoundedAscent(goal=each)(model, paragraphs, seed=0).loss(logits)
    torch.testing.assert_close(found, (each[:, None] - nll).clamp(min=0).mean(1), rtol=1e-5, atol=1e-5)
    part = BoundedAscent(goal=theirs, ids=paragraphs.ids)(model, paragraphs.select([4, 1]), seed=0)
    torch.testing.assert_close(part.loss(logits[[4, 1]]), slow[[4, 1]], rtol=1e-5, atol=1e-5)


def test_references_of_many_paragraphs_are_computed_in_batches(model):
    tokens = torch.randint(101, (BATCH + 3, 24), generator=torch.Generator().manual_seed(8))
    many = Paragraphs(tokens, n_prefix=12)
    logits = continuation_logits(model, many).detach()
    found = NPO()(model, many, seed=0).loss(logits)
    torch.testing.assert_close(found, torch.full((BATCH + 3,), 20 * log(2)).double(), rtol=1e-6, atol=1e-6)
    assert RETAIN["kl"](model, many).loss(logits).abs().max() < 1e-9


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_gives_numbers_close_to_full(before, model, paragraphs, pairs, name):
    half = load_model(copy.deepcopy(before).float(), dtype=torch.bfloat16)
    values = []
    for one in (model, half):
        term = objective(name, pairs)(one, paragraphs, seed=0)
        values.append(term.loss(continuation_logits(one, term.rows)).detach())
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1].double(), values[0], rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_building_a_term_leaves_no_graph_no_gradient_and_no_flag_behind(model, paragraphs, pairs, name):
    flags = [weight.requires_grad for weight in model.parameters()]
    term = objective(name, pairs)(model, paragraphs, seed=0)
    assert isinstance(term.loss, partial)
    kept = [value for value in term.loss.keywords.values() if isinstance(value, torch.Tensor)]
    assert not any(value.requires_grad or value.grad_fn for value in kept)
    assert len(kept) == (1 if name in ("npo", "dpo", "bounded_ascent") else 0)
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.is_grad_enabled()


def test_published_defaults():
    found = {name: (one.retain, one.retain_weight) for name, one in OBJECTIVES.items()}
    assert found == {
        "gradient_ascent": ("none", 0.0),
        "gradient_difference": ("nll", 1.0),
        "paper_unlearn": ("kl", 50.0),
        "paper_edit": ("kl", 50.0),
        "paper_edit_misaligned": ("kl", 50.0),
        "npo": ("kl", 1.0),
        "simnpo": ("nll", 1 / 0.125),
        "dpo": ("nll", 1.0),
        "weighted_ascent": ("nll", 1.0),
        "bounded_ascent": ("kl", 1.0),
    }
    assert OBJECTIVES["npo"] == NPO(beta=0.1)
    assert OBJECTIVES["simnpo"] == SimNPO(beta=4.5, delta=0.0)
    assert OBJECTIVES["weighted_ascent"] == WeightedAscent(beta=1.0)
    assert repr(OBJECTIVES["dpo"]) == "DPO(beta=0.1, pairs=None)"
    assert repr(OBJECTIVES["bounded_ascent"]) == "BoundedAscent(goal=2.0)"
    assert all(one.retain in {*RETAIN, "none"} for one in OBJECTIVES.values())


def test_names_for_provenance_hold_every_setting(model, after, paragraphs, pairs):
    other = replace(pairs, perturbed=replace(pairs.perturbed, tokens=(pairs.perturbed.tokens + 1) % 101))
    goals = torch.ones(6), torch.zeros(6), model, after
    named = [
        *OBJECTIVES.values(),
        NPO(beta=0.2),
        *(kind(pairs=some) for kind in PAIRED.values() for some in (pairs, other)),
        *(BoundedAscent(goal=goal) for goal in goals),
    ]
    assert len({repr(one) for one in named}) == len(named)
    assert repr(PaperEdit(pairs=pairs)) == repr(PaperEdit(pairs=replace(pairs)))
    assert max(len(repr(one)) for one in named) < 80
