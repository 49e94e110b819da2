"""Devices are refused before work, TF32 is put back, and bfloat16 is compared with single precision."""

import copy

import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model import precision
from memhooks.model.loading import load_model
from memhooks.model.precision import (
    check_device,
    check_precision,
    load_at,
    log_probabilities,
    matmul_precision,
    precision_parity,
    probe_of,
)
from memhooks.organism.paragraphs import load_planted


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "meta", "mps", "CUDA", "", "cpu:0"])
def test_other_devices_are_refused_by_name(device):
    with pytest.raises(InputError, match=r"a device is cpu, cuda, or cuda:N"):
        check_device(device)


def test_a_card_that_is_not_there_is_refused_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"cuda:1 was asked for, but torch finds no CUDA card.*use cpu"):
        load_at("no/such/folder", device="cuda:1")


def test_a_card_is_taken_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda") == torch.device("cuda")
    assert check_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"cards here are cuda:0 to cuda:1"):
        check_device("cuda:2")


@pytest.mark.parametrize(("name", "message"), [("fp16", r"precisions are fp32, tf32, bf16"), ("tf32", r"CUDA cards")])
def test_precisions_that_the_device_lacks_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        precision.check_name(name, torch.device("cpu"))


@pytest.mark.parametrize("before", ["highest", "high"])
@pytest.mark.parametrize(("name", "inside"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "highest")])
def test_tf32_is_on_inside_alone_and_put_back_after_errors(before, name, inside):
    torch.set_float32_matmul_precision(before)
    try:
        with matmul_precision(name):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(KeyError), matmul_precision(name):
            raise KeyError
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_single_precision_is_what_load_model_gives(neo):
    there, here = load_model(copy.deepcopy(neo)), load_at(neo)
    for name, weight in there.named_parameters():
        assert torch.equal(weight, dict(here.named_parameters())[name]), name


def test_bf16_recites_what_the_organism_recites(organism):
    reduced = load_at("organism", precision="bf16")
    assert {weight.dtype for weight in reduced.parameters()} == {torch.bfloat16}
    rows = load_planted("A", at_least=128).select(slice(0, 4))
    assert recitation(reduced, rows)["exact_match"].values.tolist() == [50] * 4
    tokens = probe_of(organism)
    found = check_precision(reduced, tokens, log_probabilities(organism, tokens))
    assert 0.001 < found.mean < 0.05  # not the same, and near
    assert found.agreement > 0.95


def test_parity_is_that_of_a_loop(model):
    tokens = torch.randint(101, (2, 9), generator=torch.Generator().manual_seed(0))
    reference = log_probabilities(model, tokens)
    reduced = copy.deepcopy(model)
    reduced.to(torch.bfloat16, print_details=False)
    found = precision_parity(reduced, tokens, reference)
    largest, total, agree = 0.0, 0.0, 0
    for row in tokens:
        exact, rounded = (one(row[None]).detach()[0].float().log_softmax(-1) for one in (model, reduced))
        for a, b in zip(exact, rounded, strict=True):
            largest = max(largest, *(abs(float(x) - float(y)) for x, y in zip(a, b, strict=True)))
            total += sum(abs(float(x) - float(y)) for x, y in zip(a, b, strict=True))
            agree += int(a.argmax() == b.argmax())
    assert found.largest == pytest.approx(largest, rel=1e-4)
    assert found.mean == pytest.approx(total / (2 * 9 * 101), rel=1e-4)
    assert found.agreement == agree / 18


@pytest.mark.parametrize("wrong", [0.3, float("nan")])
def test_too_large_a_difference_is_refused(model, wrong):
    tokens = probe_of(model)
    reference = log_probabilities(model, tokens)
    assert check_precision(model, tokens, reference) == precision_parity(model, tokens, reference)
    with pytest.raises(InputError, match=r"reduced precision changes what this model says.*use fp32"):
        check_precision(model, tokens, reference + wrong)


def test_bf16_that_breaks_a_model_is_refused_at_loading(neo, monkeypatch):
    monkeypatch.setattr(precision, "MOST_MEAN", 1e-6)
    with pytest.raises(InputError, match=r"reduced precision"):
        load_at(neo, precision="bf16")
