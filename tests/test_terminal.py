from memhooks.terminal import console, print_table, say


def test_corpus_text_is_printed_as_text_never_as_markup():
    with console.capture() as printed:
        print_table("title", [{"token": "[red]x[/red] [/]", "n": 1.234}])
        say("[bold]plain[/bold]")
    assert "[red]x[/red] [/]" in printed.get()
    assert "1.23" in printed.get()
    assert "[bold]plain[/bold]" in printed.get()
