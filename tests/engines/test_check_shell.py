"""How commands stand in texts: quotes, lines, prompts, containers, sentences, and what only looks like a command."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sampling import examples

from eagle3hub.engines.check import check_markdown
from eagle3hub.engines.check.shell import read_shell
from eagle3hub.engines.check.snippets import ServerCommand, extract_snippets

CONFIG = '{"method": "eagle3", "model": "org/d", "num_speculative_tokens": 3}'


def block(text: str, language: str = "bash") -> str:
    return f"Words.\n\n```{language}\n{text}\n```\n"


def commands(text: str) -> list[ServerCommand]:
    return extract_snippets(text).commands


def flags(text: str) -> list[list[str]]:
    """The words of each command that begin with a dash."""
    return [[word for word in command.words if word.startswith("-")] for command in commands(text)]


def codes(text: str) -> list[str]:
    return [finding.code for finding in check_markdown(text).findings]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve a --b 'c d' \"e $F\" g\\ h", ["a", "--b", "c d", "e $F", "g h"]),
        ("vllm serve a --b=c'd'\"e\"", ["a", "--b=cde"]),
        ("vllm serve a \\\n  --b \\\n  c", ["a", "--b", "c"]),
        ("vllm serve a --b '{\n  \"c\": 1\n}' --d", ["a", "--b", '{\n  "c": 1\n}', "--d"]),
        ('vllm serve a --b "{\\"c\\": 1}"', ["a", "--b", '{"c": 1}']),
        ("vllm serve a --b $'x\\ty'", ["a", "--b", "x\ty"]),
        ("vllm serve a --b > log 2>&1 --c &", ["a", "--b", "--c"]),
        ("vllm serve a --b <<< text", ["a", "--b"]),
        ("2> log vllm serve a --b", ["a", "--b"]),
        ("vllm serve a <<< text --b", ["a", "--b"]),
        ("A=1 B='2 3' nohup vllm serve a --b | tee log", ["a", "--b"]),
        ("(cd x && vllm serve a --b) || exit", ["a", "--b"]),
        ("for m in a b; do vllm serve $m --b; done", ["$m", "--b"]),
        ("if true; then\n  vllm serve a --b\nfi", ["a", "--b"]),
        ("serve() {\n  vllm serve a --b\n}", ["a", "--b"]),
        ("x=(\n  vllm serve a\n  --b\n)", ["a", "--b"]),
        ("vllm serve a --b  # don't", ["a", "--b"]),
        ("vllm serve a --b \\", ["a", "--b"]),
        ("vllm serve <your model> --b <n>", ["PLACEHOLDER", "--b", "PLACEHOLDER"]),
        ("bash -lc 'vllm serve a --b \"c d\"'", ["a", "--b", "c d"]),
        ('ssh host "cd /x && vllm serve a --b"', ["a", "--b"]),
        ("srun -n 1 python3 -m vllm.entrypoints.openai.api_server --model a", ["--model", "a"]),
        ("docker run --gpus all -p 1:2 vllm/vllm-openai:v1 --model a", ["--model", "a"]),
        ("docker run --entrypoint vllm vllm/vllm-openai serve a --b", ["a", "--b"]),
        ("docker run x/sglang:y python3 -m sglang.launch_server --b", ["--b"]),
        ("docker exec -it c bash -c 'vllm serve a --b'", ["a", "--b"]),
        ("uv run --with vllm vllm serve a --b", None),
        ("/opt/venv/bin/vllm serve a --b", ["a", "--b"]),
        ("echo vllm serve a --b", None),
        ("pkill -f 'vllm serve a --b'", None),
        ("docker run --entrypoint bash vllm/vllm-openai --model a", None),
        ("cat <<EOF > run.sh\nvllm serve a --b\nEOF", ["a", "--b"]),
    ],
)
def test_words_are_those_that_the_shell_hands_on(text: str, words: list[str] | None) -> None:
    found = [list(command.words) for command in commands(block(text))]
    assert found == ([] if words is None else [words])


def test_every_word_has_its_line() -> None:
    text = block("A=1 \\\nvllm serve a \\\n  --speculative-config '{\n\"model\": 1}' \\\n  --dtype x")
    (command,) = commands(text)
    lines = text.splitlines()
    assert lines[command.line_of("--dtype") - 1].strip() == "--dtype x"
    assert "--speculative-config" in lines[command.line_of("--speculative-config") - 1]
    assert command.where.start == 5


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("vllm serve org/t\n  --dtype auto \\\n  --port 1", "vllm serve org/t", "no backslash"),
        ("vllm serve org/t \\\n  --dtype auto\n  --port 1\n  --seed 1", "  --dtype auto", "no backslash"),
        ("vllm serve org/t \\ \n  --dtype auto", "vllm serve org/t \\ ", "space after the backslash"),
        ("vllm serve org/t \\  # a card\n  --dtype auto", "vllm serve org/t \\  # a card", "comment"),
        ("vllm serve org/t \\\n  # --port 1 \\\n  --dtype auto", "vllm serve org/t \\", "comment"),
    ],
)
def test_a_command_that_is_broken_off_is_reported_once(text: str, line: str, why: str) -> None:
    outcome = check_markdown(block(text))
    (finding,) = outcome.findings
    assert (finding.code, finding.severity) == ("shell-continuation", "error")
    assert block(text).splitlines()[finding.line - 1] == line
    assert why in finding.what
    assert "--dtype" in flags(block(text))[0]


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve org/t \\\n  --dtype auto \\\n\ncurl x",
        "vllm serve org/t ...\n  --dtype auto\n  --port 1",
        "python chat.py\n  --raw",
        "vllm serve org/t\n\nusage: chat [-h]\n\noptions:\n  --raw                 Raw mode\n  --show",
        "usage: vllm serve [-h]\n  --made-up",
        "vllm serve org/t\n# --made-up 1",
        "args=(\n  --dtype auto\n)",
    ],
)
def test_what_only_looks_broken_off_is_none(text: str) -> None:
    assert codes(block(text)) == []
    assert codes(block(text, "")) == []


def test_another_programs_flags_are_nobodys_where_the_block_is_no_script() -> None:
    text = block("vllm serve org/t\nINFO don't\npython chat.py \\\n  --batch_size 1 \\\n  --raw")
    assert [c.words for c in commands(text)] == [("org/t",)]


def test_another_programs_help_is_nobodys_flags() -> None:
    text = block("vllm serve org/t") + "usage: python -m my_chat [-h]\n\n  --raw                 Raw mode\n"
    text += block("usage: my_chat [-h]\n\noptions:\n  --show-browser-results\n     Show\n  --raw  Raw mode", "")
    assert codes(text) == []
    assert [c.words for c in commands(text)] == [("org/t",)]


@pytest.mark.parametrize(
    ("text", "shown", "expected"),
    [
        ("vllm serve org/t —tensor-parallel-size 2", "—tensor-parallel-size", ["--tensor-parallel-size"]),
        ("vllm serve org/t \\\n  –tp 2", "–tp", ["-tp"]),
        ("vllm serve org/t −−dtype auto", "−−dtype", ["--dtype"]),
        ("vllm serve org/t --chat-template “a.jinja”", "“", ["--chat-template"]),
        (f"vllm serve org/t --speculative-config ‘{CONFIG}’", "‘", ["--speculative-config"]),
        ("vllm serve org/t\u00a0--dtype auto", "U+00A0", ["--dtype"]),
    ],
)
def test_typographic_characters_are_reported_and_read(text: str, shown: str, expected: list[str]) -> None:
    outcome = check_markdown(block(text))
    assert [(f.code, f.severity) for f in outcome.findings] == [("shell-typographic", "error")]
    assert outcome.findings[0].what.startswith(f"{shown}:")
    assert flags(block(text)) == [expected]


def test_typographic_characters_elsewhere_are_text() -> None:
    text = "Words — “quoted” – and more.\n" + block("# serve – with “care”\nvllm serve org/t --dtype auto")
    assert codes(text + block('vllm serve org/t --served-model-name "the – best"')) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("vllm serve org/t --chat-template 'a\necho 1", "single quote"),
        ('vllm serve org/t --chat-template "a\necho 1', "double quote"),
        ("vllm serve org/t --port $(cat port", "not closed"),
    ],
)
def test_what_does_not_parse_is_said_and_not_checked(text: str, why: str) -> None:
    outcome = check_markdown(block(text))
    (finding,) = outcome.findings
    assert (finding.code, finding.line) == ("shell-syntax", 4)
    assert why in finding.what
    assert [one.line for one in outcome.not_checked] == [4]


def test_output_with_an_open_quote_hides_no_command() -> None:
    text = block("vllm serve org/t --made-up\nINFO it's up\n(APIServer pid=1) don't\nvllm serve org/t --made-too")
    assert codes(text) == ["flag-unknown", "flag-unknown"]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("console", "$ vllm serve a \\\n>   --b\nINFO --c\n$ echo", [["--b"]]),
        ("console", "$ vllm serve a --b '{\n  x}'\nout --c", [["--b"]]),
        ("bash", "(venv) user@host:~/x$ vllm serve a --b\n--c is an option", [["--b"]]),
        ("console", "# vllm serve a --b", [["--b"]]),
        ("bash", "# vllm serve must be new --b", []),
        ("bash", "root@host:/# vllm serve a --b", [["--b"]]),
        ("", "$ pip install vllm\nvllm serve a --b", [["--b"]]),
        ("bash", "% vllm serve a --b", [["--b"]]),
    ],
)
def test_prompts_are_cut_and_output_is_left_out(language: str, text: str, expected: list[list[str]]) -> None:
    assert flags(block(text, language)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run `vllm serve a --b c` and wait.", [["--b"]]),
        ("Run `vllm serve a\n--b c` and wait.", [["--b"]]),
        ("Run `vllm serve a` with `--b`.", []),
        ("The older `vllm serve a --b c` is gone.", []),
        ("Use it instead of `vllm serve a --b c`.", []),
        ("`python -m sglang.launch_server --model-path a --b`", [["--model-path", "--b"]]),
        ("We run vllm serve a --b every day.", []),
        ("vllm serve a \\\n  --b '{\n\"c\": 1}' \\\n  --d\nAnd more --e.", [["--b", "--d"]]),
        ("> ```bash\n> vllm serve a \\\n>   --b\n> ```\nmore", [["--b"]]),
        ("1. Do\n\n   ```bash\n   vllm serve a \\\n     --b\n   ```\n", [["--b"]]),
        ("~~~sh\nvllm serve a --b\n~~~", [["--b"]]),
        ('<pre><code class="language-bash">vllm serve a \\\n  --b &lt;x&gt;\n</code></pre>\nwords --c', [["--b"]]),
    ],
)
def test_commands_in_sentences_quotations_lists_and_html(text: str, expected: list[list[str]]) -> None:
    assert flags(text) == expected


DOCKERFILE = """FROM vllm/vllm-openai:v1
ENV VLLM_USE_V1=1 B=2
ENV VLLM_LOGGING_LEVEL DEBUG
RUN pip install x && \\
    echo y
CMD ["--model", "org/t", \\
     "--made-up"]"""
COMPOSE = """services:
  one:
    image: vllm/vllm-openai:v1
    environment:
      - VLLM_USE_V1=1
    command: ["--model", "org/t", "--made-up"]
  two:
    image: lmsysorg/sglang
    environment:
      SGLANG_ENABLE_SPEC_V2: "1"
    entrypoint: python3 -m sglang.launch_server
    command: >
      --model-path org/t
      --made-two
"""
KUBERNETES = """spec:
  containers:
  - name: x
    image: x/y
    command: [bash, -c]
    args:
    - |
      export VLLM_USE_V1=1
      vllm serve org/t \\
        --made-up
    env:
    - {name: SGLANG_ENABLE_SPEC_V2, value: "1"}
"""


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("dockerfile", DOCKERFILE, {"VLLM_USE_V1=1": "env-no-effect", '"--made-up"': "flag-unknown"}),
        ("", DOCKERFILE, {"VLLM_USE_V1=1": "env-no-effect", '"--made-up"': "flag-unknown"}),
        ("dockerfile", "FROM x\nENTRYPOINT vllm serve org/t --made-up", {"--made-up": "flag-unknown"}),
        ("dockerfile", 'FROM x\nENTRYPOINT ["vllm", "serve"]\nCMD ["a", "--made-up"]', {"--made-up": "flag-unknown"}),
        (
            "yaml",
            COMPOSE,
            {
                "- VLLM_USE_V1=1": "env-no-effect",
                '"--made-up"]': "flag-unknown",
                "SGLANG_ENABLE_SPEC_V2": "env-no-effect",
                "--made-two": "flag-unknown",
            },
        ),
        (
            "yaml",
            KUBERNETES,
            {
                "export VLLM_USE_V1=1": "env-no-effect",
                "--made-up": "flag-unknown",
                "SGLANG_ENABLE_SPEC_V2": "env-no-effect",
            },
        ),
    ],
)
def test_what_containers_start_is_a_command(language: str, text: str, expected: dict[str, str]) -> None:
    found = [
        (f.code, block(text, language).splitlines()[f.line - 1])
        for f in check_markdown(block(text, language)).findings
    ]
    assert len(found) == len(expected)
    for (code, line), (part, wanted) in zip(found, expected.items(), strict=True):
        assert code == wanted
        assert part in line


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve '" * 3000,
        "vllm serve a \\\n" * 3000,
        "vllm serve '\n" * 3000,
        "$(" * 20000 + "vllm serve",
        "vllm serve " + "'\"" * 20000,
        "cat <<E\n" * 3000 + "vllm serve",
        "x=(\n" * 3000 + "vllm serve a --b",
        "`vllm serve " * 3000,
        "- --flag x\n" * 3000,
        "vllm serve a\n--made-up x\n" * 300,
    ],
)
@pytest.mark.parametrize("fenced", [True, False])
def test_hostile_text_takes_no_long_time(text: str, fenced: bool) -> None:
    before = time.process_time()
    check_markdown(block(text) if fenced else text)
    assert time.process_time() - before < 20


@given(st.text(alphabet="ab'\"\\$(){}<>|&;=\n -#`[]\x00\ud800é—", max_size=60))
@settings(max_examples=examples(2))
def test_any_text_is_read(text: str) -> None:
    script = read_shell(text)
    rows = text.encode("utf-8", "replace").count(b"\n")
    assert all(0 <= word.row <= rows for command in script.commands for word in command.words)
