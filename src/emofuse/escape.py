"""Escape text from tables for HTML, Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from html import escape

_FORMULA = re.compile(r"'*[=+\-@\t\r]")

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def one_line(text: object) -> str:
    r"""Text without line breaks and other control characters, which would break a table or a plot.

    Example:
        >>> one_line("a\nb")
        'a b'
    """
    return "".join(character if character.isprintable() else " " for character in str(text))


def html(text: object) -> str:
    """Text within HTML, or within a quoted attribute.

    Example:
        >>> html("<b>")
        '&lt;b&gt;'
    """
    return escape(one_line(text))


def markdown(text: object) -> str:
    r"""Text within a line of Markdown, as CommonMark and GitHub read it.

    Example:
        >>> print(markdown("early_frame <b> [x](http://y)"))
        early\_frame \<b\> [x\](http\://y)
        >>> print(markdown("1. first"))
        1\. first
    """
    # A sign or a number at the start of a line becomes a heading or a list.
    line = re.sub(r"^(\s*)([#+=\-])", r"\1\\\2", markdown_cell(text))
    return re.sub(r"^(\s*\d+)([.)])", r"\1\\\2", line)


def markdown_cell(text: object) -> str:
    r"""Text within a cell of a Markdown table, which is never at the start of a line.

    Example:
        >>> print(markdown_cell("39.5 | a_b"))
        39.5 \| a\_b
    """
    # Brackets alone, such as those of intervals, are text; what makes a link of them is what follows the second.
    line = re.sub(r"([\\`*_<>|~&$!@]|\](?=[(\[:]))", r"\\\1", one_line(text))
    # A bare address becomes a link on GitHub; so does "#1".
    line = re.sub(r"(?i)\b(https?|ftp)(?=://)", r"\1\\", line)
    line = re.sub(r"(?i)\b(www)\.", r"\1\\.", line)
    return re.sub(r"^(\s*)#", r"\1\\#", line)


def code_span(text: object) -> str:
    """Text as code within a line of Markdown.

    Example:
        >>> code_span("a`b"), code_span("early-frame")
        ('`` a`b ``', '`early-frame`')
    """
    line = one_line(text)
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest or not line.strip() else f"{fence}{line}{fence}"


def code_block(text: object, language: str = "") -> list[str]:
    """The lines of a block of code in Markdown.

    Example:
        >>> code_block("emofuse run", "bash")
        ['```bash', 'emofuse run', '```']
    """
    line = one_line(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
    return [fence + language, line, fence]


def latex(text: object) -> str:
    r"""Text as LaTeX prints it.

    Example:
        >>> print(latex("early_frame 50 %"))
        early\_frame 50 \%
    """
    line = "".join(_LATEX.get(character, character) for character in one_line(text))
    # At the start of a row either would be read as an argument of the line break before it.
    return re.sub(r"^(\s*)([\[*])", r"\1{\2}", line)


def to_cell(text: str) -> str:
    """Text for a CSV cell that no spreadsheet takes for a formula: a quote precedes a formula's first character.

    Example:
        >>> to_cell("=1+1"), to_cell("happy"), from_cell(to_cell("'=x"))
        ("'=1+1", 'happy', "'=x")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The inverse of `to_cell`.

    Example:
        >>> from_cell("'=1+1"), from_cell("'tis"), from_cell("-x")
        ('=1+1', "'tis", '-x')
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
