"""Chat templates that do not end, grow without bounds or look around: each is stopped, and the next one works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from eagle3hub.reference import chat
from eagle3hub.reference.chat import TemplateFault, render

TURN = [{"role": "user", "content": "hi"}]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ bos_token }}"
STOPPED = {
    "a loop": ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    "nested loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "takes more than",
    ),
    "a long text": ("{{ 'x' * 10**8 }}", "its text has 100000000 characters|takes more than"),
    "a text of terabytes": ("{{ 'x' * 10**12 }}", "wants more than 1024 MiB"),
    "a wide text": ("{{ 'x'|center(10**12) }}", "wants more than 1024 MiB"),
    "doubling": (
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "wants more than 1024 MiB|takes more than",
    ),
    "doubling a list": (
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "wants more than 1024 MiB|takes more than",
    ),
    "a power of a power": ("{{ (9**(9**9)) > 1 }}", "takes more than"),
    "itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError|takes more than"),
    "out of the sandbox": ("{{ ().__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "a change of what it is given": ("{{ messages.append(1) }}", "SecurityError"),
    "its own complaint": ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
    "no template": ("{% if %}", "TemplateSyntaxError"),
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 2.0)


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] * ("takes" in says)) for what, (_, says) in STOPPED.items()]
)
def test_a_template_is_stopped_and_the_next_one_works(what: str) -> None:
    template, says = STOPPED[what]
    begun = time.monotonic()
    with pytest.raises(TemplateFault, match=says):
        render(template, TURN, {})
    assert time.monotonic() - begun < 30
    assert render(PLAIN, TURN, {"bos_token": "<s>"}) == "<user>hi<s>"


@pytest.mark.parametrize(
    ("template", "variables"),
    [
        (PLAIN, {"bos_token": "<s>"}),
        ("{{ messages | tojson }}{{ messages | tojson(indent=2) }}", {}),
        ("{% generation %}{{ messages[0]['content'] }}{% endgeneration %}", {}),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", {}),
        ("  {% if add_generation_prompt %}\n  yes {{ enable_thinking }}\n  {% endif %}", {"enable_thinking": False}),
        ("{{ 'Größe \\ud83d' }}{{ messages[0].content | upper }}", {}),
        ("{{ tools }}{{ documents }}{{ nothing }}{{ strftime_now('%Y')[:2] }}", {}),
    ],
)
def test_it_renders_as_transformers_does(template: str, variables: dict[str, Any]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected = render_jinja_template([TURN], chat_template=template, add_generation_prompt=True, **variables)[0][0]
    assert render(template, TURN, variables) == expected


@pytest.mark.slow
def test_the_process_is_kept_and_made_anew_when_it_is_gone() -> None:
    render(PLAIN, TURN, {})
    process = chat._renderer._process
    assert process is not None
    render(PLAIN, TURN, {})
    assert chat._renderer._process is process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert render(PLAIN, TURN, {"bos_token": "!"}) == "<user>hi!"


@pytest.mark.slow
def test_no_process_is_left_and_torch_is_not_loaded() -> None:
    program = """
import os, sys
from eagle3hub.reference import chat
chat.render("{{ 1 }}", [], {})
pid = chat._renderer._process.pid
maps = open(f"/proc/{pid}/maps").read()
print(pid, "libtorch" in maps, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    pid, theirs, ours = done.stdout.split()
    assert (theirs, ours) == ("False", "False")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
