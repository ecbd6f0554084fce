"""The page on what a value means says the truth: its examples run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/semantics.md"


def test_the_examples_of_the_page_run() -> None:
    text = PAGE.read_text()
    blocks = list(re.finditer(r"^```pycon\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) > 8
    scope: dict[str, object] = {}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        test = doctest.DocTestParser().get_doctest(block[1], scope, PAGE.name, str(PAGE), line)
        test.globs = scope
        failed, _ = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, clear_globs=False)
        assert not failed, f"{PAGE.name}: see the report above"
