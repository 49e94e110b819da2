from memhooks.progress import tracked


def test_items_pass_through_unchanged_and_nothing_is_printed_without_a_terminal(capsys):
    assert list(tracked(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
