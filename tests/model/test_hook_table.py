import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.hook_names import GATES, find_hook
from memhooks.model.hook_table import hook_table

FLAGS = sorted(set(GATES.values()))


def naive(model, batch, length):
    """Every hook point's shape and place in the order of one real pass of that size."""
    seen = {}

    def note(activation, hook):
        seen.setdefault(hook.name, []).append(tuple(activation.shape))

    model.run_with_hooks(torch.zeros(batch, length, dtype=torch.long), fwd_hooks=[(lambda name: True, note)])
    return seen


def test_the_table_is_what_one_real_pass_shows(model):
    table, seen = hook_table(model, batch=3, length=9), naive(model, 3, 9)
    assert len(table) == len(model.hook_dict)
    assert [row.name for row in table if row.order] == list(seen)
    for row in table:
        assert row.fires == len(seen.get(row.name, []))
        if row.fires:
            assert row.shape == seen[row.name][0]
            assert row.megabytes == pytest.approx(torch.zeros(row.shape).nbytes / 1e6)
    assert {row.fires for row in table if ".ln1." in row.name} == {3}


def test_shapes_of_gated_points_are_those_they_have_once_their_flag_is_on(model):
    promised = {row.name: row for row in hook_table(model, batch=2, length=7) if not row.fires}
    assert {row.flag for row in promised.values()} == set(FLAGS)
    shapes = {}
    for flag in FLAGS:  # one at a time: attn_in and split inputs exclude each other
        getattr(model, f"set_{flag}")(True)
        shapes |= naive(model, 2, 7)
        getattr(model, f"set_{flag}")(False)
    assert promised
    for name, row in promised.items():
        assert row.shape == shapes[name][0]


def test_what_the_table_calls_a_point_is_what_the_helpers_take(model):
    model.set_use_attn_result(True)
    for row in hook_table(model).find(fires=True):
        assert find_hook(model, eval(row.place)) == row.name  # the text is what one would type


def test_find_narrows_by_words_layer_and_firing(model):
    table = hook_table(model)
    assert [row.name for row in table.find("pattern", layer=1)] == ["blocks.1.attn.hook_pattern"]
    assert {row.layer for row in table.find("local pattern")} == {1, 3}
    assert {row.name.rsplit(".", 1)[-1] for row in table.find(fires=False)} == set(GATES)
    assert [row.name for row in table.find("z 3")] == ["blocks.3.attn.hook_z"]
    assert {row.name.rsplit(".", 1)[-1] for row in table.find("q")} == {"hook_q", "hook_q_input"}
    with pytest.raises(InputError, match=r"no hook point has 'patern'; did you mean 'hook_pattern'"):
        table.find("patern")
    with pytest.raises(InputError, match=r"layer must lie in 0..3, got 7"):
        table.find(layer=7)
    with pytest.raises(InputError, match=r"no hook point of \d+ has all of \['pattern'\].*; ask for less"):
        table.find("pattern", fires=False)


def test_layer_types_and_windows_are_told(model):
    rows = {row.name: row for row in hook_table(model)}
    assert rows["blocks.0.attn.hook_pattern"].attention == "global"
    assert rows["blocks.1.attn.hook_pattern"].attention == "local, window 8"
    assert rows["hook_embed"].attention == ""


def test_a_notebook_shows_every_point_and_a_frame_holds_them(model):
    table = hook_table(model)
    html = table._repr_html_()
    assert html.count("<tr data-text=") == len(table)
    assert 'type="search"' in html
    assert table.to_dataframe().loc["hook_embed", "shape"] == (1, 64, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"batch": 0}, "batch must be at least 1, got 0"), ({"length": 65}, r"length must lie in 1..64 .* got 65")],
)
def test_sizes_the_model_cannot_read_are_refused(model, arguments, message):
    with pytest.raises(InputError, match=message):
        hook_table(model, **arguments)
