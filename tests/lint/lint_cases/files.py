"""C0, C6, C7: the file, its license and metadata, its links."""

from __future__ import annotations

from lint_cases import FRONT, Case

CO2 = FRONT.replace("---\n", "---\nco2_eq_emissions:\n  emissions: 807500\n", 1)
DATA = FRONT.replace("---\n", "---\ndatasets:\n- owner/prompts\n", 1)
INDEX = FRONT.replace(
    "---\n",
    "---\nmodel-index:\n- name: head\n  results:\n  - task: {type: text-generation}\n    dataset: {type: a, name: a}\n"
    "    metrics:\n    - type: acceptance_length\n      value: 2.153\n",
    1,
)
AT_K1, AT_K3 = (INDEX.replace("value: 2.153", f"value: 2.153\n      args: {{K: {k}}}") for k in (1, 3))
PAGE = "Head\n\nA text.\n\nDownloads last month\n273\n"


def front(old: str, new: str) -> str:
    assert old in FRONT
    return FRONT.replace(old, new)


DRAFTS = '```bash\nvllm serve owner/target --speculative-config \'{"method": "eagle3", "model": "owner/head"}\'\n```'

WEIGHTS = frozenset({"README.md", "config.json", "model.safetensors"})
CASES = [
    Case("C001", PAGE, "Head", "# Head\n\nA text.", front="", good_front=FRONT),
    Case("C601", "", "---", "", "no license", front("license: apache-2.0\n", ""), FRONT),
    Case("C601", PAGE, "Head", PAGE.replace("A text.", "License\n\nMIT"), front="", severity="info", name="page"),
    Case("C602", "", "Apache-2.0", "", "Hub's id is apache-2.0", front("apache-2.0", "Apache-2.0"), FRONT),
    Case("C602", "", "nvidia", "", "", front("apache-2.0", "nvidia-open-model-license"), FRONT, name="custom"),
    Case(
        "C603",
        "",
        "license: other",
        "",
        "without license_link",
        front("apache-2.0", "other\nlicense_name: nvidia-open-model-license"),
        front("apache-2.0", "other\nlicense_name: nvidia-open-model-license\nlicense_link: LICENSE"),
    ),
    Case(
        "C604",
        "Released under Apache 2.0, consistent with the base model's license.",
        "consistent",
        "The head is under Apache 2.0; the target is under the Llama 3.1 license.",
    ),
    Case("C605", "## License\n\nMIT License", "MIT", "## License\n\nApache License 2.0; target: MIT", "says mit"),
    Case(
        "C606",
        "## License\n\nnvidia-open-model-license",
        "nvidia",
        "## License\n\n[nvidia-open-model-license](LICENSE)",
    ),
    Case("C610", "# Head", "# Head", "# Head", front="", good_front=FRONT, severity="info"),
    Case(
        "C610",
        "# Head-eagle3",
        "# Head-eagle3",
        "# Head-eagle3",
        front="",
        good_front=FRONT,
        files=WEIGHTS,
        name="head",
    ),
    Case(
        "C610",
        "# Head-eagle3",
        "# Head-eagle3",
        "# Head-eagle3",
        front="",
        good_front=FRONT,
        severity="info",
        name="alone",
    ),
    Case("C610", "", "licence", "", "twice", "---\nlicense: mit\nlicense: mit # licence\n---\n", FRONT, name="twice"),
    Case("C611", "", "---", "", "no base_model", front("base_model: owner/target\n", ""), FRONT),
    Case("C611", "", "base_model", "", "owner/name", front("owner/target", "target"), FRONT, name="form"),
    Case("C612", "A head for owner/another.", "base_model", "A head for Target.", "never mentions"),
    Case(
        "C613",
        "# A draft head",
        "tags",
        "# A draft head",
        "no tag",
        front("[eagle3, speculative-decoding]", "[text]"),
        FRONT,
    ),
    Case(
        "C625",
        "A head for --target.",
        "base_model",
        "A head for Target.",
        "no id",
        front("owner/target", "lab/target--v2"),
        FRONT,
    ),
    Case(
        "C625",
        "For [it](https://huggingface.co/MiniMax/MiniMax-M2.5).",
        "For [it]",
        "For [it](https://huggingface.co/MiniMaxAI/MiniMax-M2.5) and [copy](https://huggingface.co/unsloth/Qwen3-8B), "
        "[yours](https://huggingface.co/<you>/-x).",
        "MiniMaxAI",
        severity="warning",
        name="owner",
    ),
    Case(
        "C624",
        DRAFTS,
        "new_version",
        DRAFTS,
        "owner/head",
        front("license:", "new_version: other/head\nlicense:"),
        front("license:", "new_version: owner/head-2\nlicense:"),
    ),
    Case("C619", "", "library_name", "", "no library", front("license:", "library_name: reference\nlicense:"), FRONT),
    Case(
        "C619",
        "",
        "library_name",
        "",
        "as a chat model",
        front("license:", "library_name: transformers\nlicense:"),
        front("license:", "library_name: nemo\nlicense:"),
        severity="warning",
        name="transformers",
    ),
    Case("C615", "", "- prompts", "", "not the id", DATA.replace("owner/prompts", "prompts"), FRONT),
    Case(
        "C615",
        "## Training\n\nprompts and [set](https://huggingface.co/datasets/owner/other)",
        "owner/other",
        "## Training\n\n[set](https://huggingface.co/datasets/owner/prompts)\n\n## See also\n\n"
        "[benchmark](https://huggingface.co/datasets/owner/benchmark)",
        "not listed",
        DATA,
        severity="info",
        name="linked",
    ),
    Case("C615", "Trained.", "owner/prompts", "Trained on prompts.", "", DATA, severity="info", name="unmentioned"),
    Case("C616", "", "---", "", "", front("language: [en]\n", ""), FRONT),
    Case(
        "C616",
        "",
        "language",
        "",
        "no language code",
        front("[en]", "[english]"),
        FRONT,
        severity="warning",
        name="code",
    ),
    Case("C616", "Trained on Chinese text.", "Chinese", "Trained on English text.", severity="warning", name="other"),
    Case("C617", "# Head\n\nTrained well.", "Trained", "# Head\n\nTrained on UltraChat."),
    Case("C618", "# Head\n\nTrained well.", "Trained", "# Head\n\nTrained on 8 H100."),
    Case(
        "C620", "Total emissions (tCO2e) = 0.8075", "0.8075", "Emissions: 807,500 g CO2", "807,500 g", severity="info"
    ),
    Case(
        "C620",
        "Emissions: 0.8075 tCO2e",
        "co2_eq",
        "Emissions: 0.8075 tCO2e",
        "",
        CO2.replace("807500", "0.8075"),
        CO2,
        severity="error",
        name="tonnes",
    ),
    Case("C620", "", "co2_eq", "", "0.8 grams", CO2.replace("807500", "0.8"), CO2, severity="warning", name="tiny"),
    Case("C620", "", "co2_eq", "", "not a number", CO2.replace("807500", "much"), CO2, severity="error", name="text"),
    Case("C621", "2500 kWh; 0.8075 kg CO2", "kg CO2", "2500 kWh; 0.8075 t CO2"),
    Case(
        "C622",
        "## Results\n\n| Set | τ |\n|---|---|\n| a | 2.25 |",
        "value: 2.153",
        "## Results\n\n| Set | τ |\n|---|---|\n| a | 2.15 |",
        front=INDEX,
    ),
    Case("C623", "", "value: 2.153", "", "2.153 at K = 1", front=AT_K1, good_front=AT_K3),
    Case("C623", "", "value: 0.5", "", "K = ?", INDEX.replace("2.153", "0.5"), INDEX, name="below 1"),
    Case(
        "C701",
        "![chart](img/a.png)",
        "img/a.png",
        "![chart](./b%20c.png) [x](#y) [h](https://h.example)",
        "image",
        files=frozenset({"README.md", "b c.png"}),
    ),
    Case(
        "C701",
        "[r](../x.json)",
        "../x.json",
        "[r](a/../x.json) [a](a/)",
        "link",
        files=frozenset({"x.json", "a/b"}),
        name="leaves",
    ),
    Case(
        "C701",
        '<img src="a.png" alt="a">',
        "a.png",
        '<img src="b.png" alt="b">',
        files=frozenset({"b.png"}),
        name="html",
    ),
    Case("C702", "<script>alert(1)</script>", "<script>", "<details><summary>a</summary>b</details>"),
    Case("C702", 'Text <b onclick="x()">b</b>.', "onclick", "Text <b>b</b>.", "onclick", name="handler"),
    Case("C702", '<a href="java&#115;cript:x()">a</a>', "href", '<a href="https://a.example">a</a>', name="scheme"),
    Case("C703", "The flag is \u202eevil.", "flag", "Family: 👨‍👩‍👧, soft\u00adhyphen.", "U+202E"),
    Case("C703", "A\u200bB", "A", "AB", severity="warning", name="zero width"),
    Case(
        "C704",
        "```python\ntorch.load('x')\n```",
        "torch.load",
        "```python\ntorch.load('x', weights_only=True)\n```\nIt was made of pytorch_model.bin.",
        severity="info",
        name="load",
    ),
    Case(
        "C704",
        "",
        "---",
        "",
        "holds head.pt",
        files=frozenset({"config.json", "head.pt"}),
        good_front=FRONT,
        name="held",
    ),
    Case("C705", "Text.\n\n##Computational Load", "##Comp", "## Computational Load\n\n`**kwargs` and # signs"),
    Case("C705", "** Total size 5", "** Total", "**Total** size 5 ** 2", name="asterisks"),
    Case("C708", "See /home/jane/Code/head.", "/home", "See /home/user/head and `docs/head`.", name="path"),
    Case("C706", "## Training\n\n## Results\n\nText.", "## Training", "## Training\n\n### Data\n\nText."),
    Case("C707", "![](a.png)", "a.png", "![a chart](a.png)"),
]
