"""Tables as a command prints them: drawn on a terminal, as Markdown elsewhere."""

import sys
from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> None:
    """Print one table.

    Args:
        title: above it; "" for none.
        header: of the columns.
        rows: their cells.
        texts: how many columns, from the left, are no numbers.
    """
    if not sys.stdout.isatty():
        from tstar.evaluation.table import markdown_table

        escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        print(f"{title}\n\n" if title else "", markdown_table(header, escaped, texts), sep="")
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD)
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="left" if number < texts else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
