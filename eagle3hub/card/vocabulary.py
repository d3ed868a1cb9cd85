"""Names as the Hub and cards write them: engines, layouts, licenses and their terms, conditions, libraries."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eagle3hub.engines.base import Verdict
from eagle3hub.errors import assert_never
from eagle3hub.layouts import READERS
from eagle3hub.system import resources

# Printed names of engines, layouts and licenses.


ENGINES = {
    "reference": "eagle3hub reference",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "sglang_jax": "sglang-jax",
    "llamacpp": "llama.cpp",
}

REFERENCE = "reference"
"""Our own replay of a head: it measures but does not serve."""

TAGS = {"trtllm": "tensorrt-llm", "sglang_jax": "sglang-jax", "llamacpp": "llama.cpp"}
"""Engines whose tag on the Hub differs from eagle3hub's name for them."""

DEVICES = {"cpu": "CPU", "cuda": "NVIDIA GPU", "tpu": "Google TPU", "server": "a running server"}


@dataclass(frozen=True, slots=True)
class LayoutName:
    """A checkpoint layout in print: whose format it is, and the engines that read it."""

    title: str
    written_for: str


SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "odc-by": "ODC-By-1.0",
}
"""Hub license id to SPDX id, for those that have one."""


HEADINGS = tuple(resources.schema("manifest")["properties"]["release"]["properties"]["headings"]["properties"])
"""Headings of the card that a manifest may replace."""
SUBCARDS = {
    "explainability": "Explainability",
    "bias": "Bias",
    "safety_and_security": "Safety & Security",
    "privacy": "Privacy",
}
"""Printed names of governance subcards."""


def engine(name: str) -> str:
    """Return an engine's name as its makers write it."""
    return ENGINES.get(name, name)


def tag(name: str) -> str:
    """Return an engine's tag, as models on the Hub carry it."""
    return TAGS.get(name, name)


def device(name: str) -> str:
    """Return a device's name in print."""
    return DEVICES.get(name, name)


def outcome(verdict: Verdict) -> str:
    """Return a verdict's name in print."""
    match verdict:
        case "pass" | "fail" | "inconclusive":
            return verdict
        case "unavailable":
            return "could not run"
    return assert_never(verdict)


def layout(name: str) -> LayoutName:
    """Return a layout in print; an unknown one keeps its own name and has no engines."""
    if name not in READERS:
        return LayoutName(name, "")
    contract = READERS[name].contract
    readers = [*map(engine, contract.engines), *([contract.other_readers] if contract.other_readers else [])]
    return LayoutName(contract.card_title, ", ".join(readers))


_DATA_SETS = {
    "aime24": "HuggingFaceH4/aime_2024",
    "aime2024": "HuggingFaceH4/aime_2024",
    "aime25": "math-ai/aime25",
    "aime2025": "math-ai/aime25",
    "alpaca": "tatsu-lab/alpaca",
    "ceval": "ceval/ceval-exam",
    "cnndailymail": "abisee/cnn_dailymail",
    "cnndm": "abisee/cnn_dailymail",
    "gpqa": "Idavidrein/gpqa",
    "gpqadiamond": "Idavidrein/gpqa",
    "gsm8k": "openai/gsm8k",
    "humaneval": "openai/openai_humaneval",
    "livecodebench": "livecodebench/code_generation_lite",
    "math500": "HuggingFaceH4/MATH-500",
    "mbpp": "google-research-datasets/mbpp",
    "mmlu": "cais/mmlu",
    "mmmu": "MMMU/MMMU",
    "mmstar": "Lin-Chen/MMStar",
    "mtbench": "HuggingFaceH4/mt_bench_prompts",
    "naturalquestions": "google-research-datasets/natural_questions",
    "qa": "google-research-datasets/natural_questions",
    "speedbench": "nvidia/SPEED-Bench",
    "sum": "abisee/cnn_dailymail",
}
"""Hub ids of data sets that everybody calls by the same name: letters and digits of it, in lower case.

``qa`` and ``sum`` are the names that our own prompt sets have from EAGLE's repository.
"""


def data_set(name: str) -> str | None:
    """Return the Hub id of a data set that is known by its name; None for any other."""
    return _DATA_SETS.get("".join(filter(str.isalnum, name.casefold())))


# What the licenses of targets require of a model made from one, as data: only what can be looked up.
#
# A draft head is trained on its target's hidden states and tokens. Whether that makes it a derivative is a legal
# question that this file does not answer. It says what the license, as stated, requires of such a model, so that a
# release can be checked against it. This is not legal advice, and the license texts say more than these fields.
#
# Sources, read in November 2026: the community licenses of Llama 2 (section 1.b), 3, 3.1, 3.2, 3.3 and 4 (1.b.i,
# 1.b.iii); the Gemma Terms of Use (1.1(e), 3.1); the OpenRAIL-M licenses (definition of derivatives, paragraph 4);
# Creative Commons' legal codes and the GPL family for the meaning of their letters.


_META = "Copyright © Meta Platforms, Inc. All Rights Reserved."


@dataclass(frozen=True, slots=True)
class Terms:
    """The requirements of one license.

    Attributes:
        prefix: what the name of a model trained with it must begin with; empty: anything.
        phrases: sentences that must be shown with it or be in a notice file.
        limits: restrictions that the new model's license must pass on: ``non-commercial``, ``share-alike``,
            ``use-based restrictions``, ``no derivatives``.
    """

    prefix: str = ""
    phrases: tuple[str, ...] = ()
    limits: frozenset[str] = frozenset()


def _llama(version: str) -> Terms:
    name = f"Llama {version}"
    notice = f"{name} is licensed under the {name} Community License, {_META}"
    return Terms("Llama", ("Built with Llama", notice))


_GEMMA = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
_SPECIAL = {
    "llama2": Terms(phrases=(f"Llama 2 is licensed under the LLAMA 2 Community License, {_META}",)),
    "llama3": Terms(
        "Llama 3",
        ("Built with Meta Llama 3", f"Meta Llama 3 is licensed under the Meta Llama 3 Community License, {_META}"),
    ),
    **{f"llama{v}": _llama(v) for v in ("3.1", "3.2", "3.3", "4")},
    "gemma": Terms(phrases=(_GEMMA,), limits=frozenset({"use-based restrictions"})),
}
_LIMITS = {
    "non-commercial": r"cc-by-nc-.*|fair-noncommercial-research-license|apple-amlr",
    "no derivatives": r"cc-by(-nc)?-nd-.*",
    "share-alike": r"cc-by(-nc)?-sa-.*|a?gpl.*|cdla-sharing-.*|odbl|osl-3.0",
    "use-based restrictions": r"openrail.*|.*-openrail-m|bigscience-bloom-rail-1.0",
}


def terms(license_id: str) -> Terms:
    """Return what a license requires, by its Hub id; nothing for a license that is not listed here."""
    if license_id in _SPECIAL:
        return _SPECIAL[license_id]
    return Terms(limits=frozenset(limit for limit, ids in _LIMITS.items() if re.fullmatch(ids, license_id)))


# Licenses as the Hub spells them, and as cards print them.


_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community
    h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail openrail++ osl-3.0 other
    pddl postgresql unknown unlicense wtfpl zlib
"""
HUB_IDS = frozenset(_LICENSES.split())
"""The ids of the Hub's documentation page on licenses (hub-docs, August 2026)."""

_PRINTED = (
    (r"apache(?:[ -]license)?[, -]*(?:version |v\.? ?)?2(?:\.0)?\b", "apache-2.0"),
    (r"\bMIT\b", "mit"),
    (r"\bCC[ -]BY[ -]NC[ -]SA[ -](?P<v>\d\.\d)", "cc-by-nc-sa-"),
    (r"\bCC[ -]BY[ -]NC[ -](?P<v>\d\.\d)", "cc-by-nc-"),
    (r"\bCC[ -]BY[ -]SA[ -](?P<v>\d\.\d)", "cc-by-sa-"),
    (r"\bCC[ -]BY[ -](?P<v>\d\.\d)", "cc-by-"),
    (r"\bBSD[ -]3[ -]clause\b", "bsd-3-clause"),
    (r"\bllama[ -]?(?P<v>2|3|3\.1|3\.2|3\.3|4) community", "llama"),
    (r"\bgemma (?:terms|license)", "gemma"),
)


def printed(text: str) -> set[str]:
    """Return the Hub ids of the licenses that a text names, in any usual spelling."""
    found = {id_ + (m.groupdict().get("v") or "") for p, id_ in _PRINTED for m in re.finditer(p, text, re.I)}
    return found | {word for word in re.findall(r"[\w.+-]+", text.lower()) if word.strip(".") in HUB_IDS - _WORDS}


_WORDS = frozenset({"other", "unknown", "cc", "bsd", "gpl", "lgpl", "isc", "gemma", "mit"})
"""License ids that are also ordinary words in prose."""


# What the conditions of a measurement are called: one table for results of others, our own, and the metadata.


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition.

    Attributes:
        key: its field in imported measurements and in the settings of a report.
        name: what it is called in a sentence.
        head: the head of its column, where rows may differ in it.
        said: how it is said with its value, where the value alone does not say what it is.
        arg: its name among the arguments of a result in a card's metadata; empty: it is left out there.
        number: whether its value there is a number.
    """

    key: str
    name: str
    head: str = ""
    said: str = "{}"
    arg: str = ""
    number: bool = False

    @property
    def label(self) -> str:
        """The name as the beginning of a line."""
        return self.name[:1].upper() + self.name[1:]

    def given(self, value: str) -> str:
        """Return the condition with its value, among others in a sentence."""
        return f"{self.name}: {value}" if self.said == "{}" else self.said.format(value)


def _number(key: str, name: str, head: str, said: str, arg: str = "") -> Condition:
    return Condition(key, name, head, said, arg or key, number=True)


CONDITIONS = {
    one.key: one
    for one in (
        Condition("engine", "engine", "Engine"),
        Condition("engine_version", "engine version", "Version"),
        Condition("hardware", "hardware", "Hardware", arg="hardware"),
        Condition("dtype", "number format", "Format", arg="dtype"),
        _number("tensor_parallel", "tensor parallel size", "TP", "TP {}"),
        Condition("mode", "mode of the target", "Mode", arg="mode"),
        _number("draft_tokens", "K (drafted tokens per round)", "K", "K = {}", "K"),
        Condition("topk", "top-k of the draft tree", arg="tree_top_k", number=True),
        Condition("num_draft_tokens", "verified tokens of the draft tree", arg="tree_tokens", number=True),
        Condition("drafting", "drafting"),
        _number("temperature", "temperature", "T", "T = {}"),
        _number("top_k", "top-k of sampling", "Top-k", "top-k {}"),
        _number("top_p", "top-p of sampling", "Top-p", "top-p {}"),
        Condition("seed", "seed"),
        _number("prompts", "number of prompts", "Prompts", "{} prompts", "n"),
        _number("concurrency", "concurrency (requests at a time)", "Concurrency", "concurrency {}"),
        Condition("context", "prompt tokens", "Prompt tokens", "prompts of {} tokens", arg="context"),
        _number("max_new_tokens", "most new tokens per prompt", "New tokens", "up to {} new tokens"),
        Condition("runs", "runs averaged", said="mean of {} runs"),
        Condition("estimator", "estimator", arg="estimator"),
        Condition("baseline", "baseline"),
        Condition("device", "device", arg="device"),
        Condition("system_prompt", "system prompt"),
        Condition("chat_template", "chat template"),
        Condition("min_acceptance_length", "required acceptance length"),
        Condition("collapse_acceptance_length", "collapse line"),
    )
}
"""Every condition by its key, in the order in which they are printed."""


def condition(key: str) -> Condition:
    """Return a condition; one that is not in the table, such as a setting of an engine, is called by its key."""
    return CONDITIONS.get(key) or Condition(key, key.replace("_", " "))


# Libraries that the Hub knows: the values of ``library_name``, which selects a page's snippets and counts its
# downloads.


_LIBRARIES = """
    3dtopia-xl PaddleOCR acestep adapter-transformers allennlp aneforge anemoi araclip asteroid audiocraft
    audioseal aviation-ner bagel-mot bboxmaskpose ben2 bertopic big_vision bionemo birder birefnet bm25s
    boltzgen cancertathomev2 cartesia_mlx cartesia_pytorch causilo ccpfn champ chaossim chat_tts chatterbox
    chexmix chronos-forecasting clara clipscope cloud-agents colipri collectorvision colpali comet cortiq
    cosmos cosyvoice cotracker cxr-foundation deepforest depth-anything-v2 depth-pro derm-foundation
    describe-anything dia-tts dia2 diff-interpretation-tuning diffree diffusers diffusion-single-file
    diffusionkit docking-at-home doctr edsnlp elm encoderfile espnet eupe f5-tts fairseq fastai fastprint
    fasttext fixer flair flexray flextab fme gaussianformer gemma.cpp genmo geometry-crafter gliformer gliner
    gliner2 glm-tts glyph-byt5 granite-library grok habibi-tts hallo hermes hezar holomotion htrflow
    hunyuan-dit hunyuan3d-2 hunyuanworld-voyager hy-world-2 hy-worldplay image-matching-models imstoucan
    index-tts infinite-you infinitetalk intellifold ising-decoding jev-style k2 keras keras-hub kernels
    kimi-audio kittentts kronos lagernvs laya lerobot lightglue lightning-ir litert litert-lm liveportrait
    llama-cpp-python longcat-video-avatar-1.5 ltx lvface lyra-2.0 magenta-realtime magenta-realtime-2 magi-1
    mamba-ssm manas-1 mars5-tts matanyone mect medvae memra merlin mesh-anything mflux microduck mindspore
    mini-omni2 minimax-h3 mitie ml-agents ml-sharp mlc-llm mlx mlx-image mobilint model2vec monkeyocr
    montreal-forced-aligner moshi mtvcraft multimolecule nemo ninfer nobg nv-medtech open-oasis open-sora
    open_clip openasr opendde openpeerllm outetts paddlenlp peft perception-encoder phantom-wan piper
    pocket-tts pruna-ai pxia py-feat pyannote-audio pythae quantumpeer qwen3_tts recurrentgemma refiners relik
    renderformer reverb rkllm robo-orchard-lab routee-powertrain rwkv saelens sam-3d-body sam-3d-objects sam2
    same sample-factory sana sap-rpt-1-oss sapiens sapiens2 scail-2 seed-story seedvr self-forcing
    sentence-transformers setfit shadow skala sklearn soloaudio songbloom spacy span-marker speechbrain
    ssr-speech stable-audio-3 stable-audio-tools stable-baselines3 stanza supertonic swarmformer synthefy-migas
    tabpfn tencent-song-generation tensorflowtts tensorrt terratorch tf-keras tic-clip timee-ts timesfm timm
    tirex tirex-2 torchgeo transformers transformers.js trellis trellis2 tunejury ultralytics uni-3dar
    unity-sentis univa vfi-mamba vibevoice videoprism videox_fun vismatch voicecraft voxcpm vqweb vui wan2.2
    wham whisperkit yolov10 yolov26 zeromodels zonos
"""
HUB_LIBRARIES = frozenset(_LIBRARIES.split())
"""The keys of MODEL_LIBRARIES_UI_ELEMENTS in Hugging Face's package @huggingface/tasks 0.21.54.

No inference engine that serves EAGLE-3 heads is among them; engines are tags. Published heads that put an engine's
name in this field (``vllm``, ``sglang``, ``speculators``) get no snippet and no place in the Hub's filter.
"""

_TASKS = """
    any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition depth-estimation
    document-question-answering feature-extraction fill-mask graph-ml image-classification image-feature-extraction
    image-segmentation image-text-to-image image-text-to-text image-text-to-video image-to-3d image-to-image
    image-to-text image-to-video keypoint-detection mask-generation multiple-choice object-detection other
    question-answering reinforcement-learning robotics sentence-similarity summarization table-question-answering
    table-to-text tabular-classification tabular-regression tabular-to-text text-classification text-generation
    text-ranking text-retrieval text-to-3d text-to-audio text-to-image text-to-speech text-to-video
    time-series-forecasting token-classification translation unconditional-image-generation video-classification
    video-text-to-text video-to-video visual-document-retrieval visual-question-answering voice-activity-detection
    zero-shot-classification zero-shot-image-classification zero-shot-object-detection
"""
HUB_TASKS = tuple(_TASKS.split())
"""The keys of PIPELINE_DATA in Hugging Face's package @huggingface/tasks 0.21.54: what `pipeline_tag` may be.

For another value the Hub prints a warning over the page, and no filter shows the repository.
"""
