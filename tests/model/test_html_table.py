from memhooks.model.html_table import html_table


def test_text_is_escaped_and_the_rows_are_all_there():
    html = html_table([{"<b>": "<script>alert(1)</script>"}, {"<b>": '"&'}], caption="<i>")
    assert html.count("<tr data-text=") == 2
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<i>" not in html


def test_no_rows_are_said_in_words():
    assert html_table([], caption="nothing & more") == "<p>nothing &amp; more: no rows</p>"
