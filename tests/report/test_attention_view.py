import json
import re
from types import SimpleNamespace

import pytest
import torch

from memhooks.errors import InputError
from memhooks.report.attention_view import attention_view


def test_it_shows_the_models_own_patterns(model, paragraphs):
    html = attention_view(model, paragraphs, layer=1)._repr_html_()
    _, cache = model.run_with_cache(paragraphs.tokens[:1])
    shown = json.loads(re.search(r'"attention": (\[\[\[.*?\]\]\])', html)[1])
    torch.testing.assert_close(torch.tensor(shown), cache["pattern", 1][0], rtol=1e-5, atol=1e-5)
    assert '"L1H3"' in html
    assert json.loads(re.search(r'"tokens": (\[.*?\])', html)[1]) == [str(one) for one in paragraphs.tokens[0].tolist()]


def test_corpus_text_cannot_leave_its_script(model, paragraphs, monkeypatch):
    hostile = "</script><img src=x onerror=alert(1)>\u2028"
    monkeypatch.setattr(model, "tokenizer", SimpleNamespace(decode=lambda ids: hostile, padding_side="right"))
    plain = attention_view(model, paragraphs, layer=0).html
    assert hostile not in plain
    assert "<img" not in plain
    assert plain.count("</script>") == 1
    assert json.loads(re.search(r'"tokens": (\[.*?\])', plain)[1]) == [hostile] * 24


def test_a_layer_that_is_not_there_and_a_missing_package_are_named(model, paragraphs, monkeypatch):
    with pytest.raises(InputError, match=r"layer must lie in 0..3, got 4"):
        attention_view(model, paragraphs, layer=4)
    monkeypatch.setattr("memhooks.report.attention_view.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'memhooks\[notebook\]'"):
        attention_view(model, paragraphs, layer=0)
