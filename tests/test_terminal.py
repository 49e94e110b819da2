from memhooks.terminal import console, print_table, printable, say


def test_corpus_text_is_printed_as_text_never_as_markup():
    with console.capture() as printed:
        print_table("data[/x].jsonl", [{"token": "[red]x[/red] [/]", "n": 1.234}])
        say("[bold]plain[/bold]")
    assert "[red]x[/red] [/]" in printed.get()
    assert "data[/x].jsonl" in printed.get()
    assert "1.23" in printed.get()
    assert "[bold]plain[/bold]" in printed.get()


def test_control_characters_never_reach_the_terminal():
    assert printable("a\x1b[31mb\u202ec\nd") == "a\ufffd[31mb\ufffdc\nd"
