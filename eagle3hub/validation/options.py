"""The options of a validation: one dataclass for the command line, the API, a manifest and a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from eagle3hub.charts import require_drawing
from eagle3hub.checkpoint.destination import check_place
from eagle3hub.engines import ENGINES, no_such_engine
from eagle3hub.engines.base import DTYPES, EngineSettings
from eagle3hub.engines.specs import DEVICES, engine_title
from eagle3hub.errors import UsageError
from eagle3hub.prompts import contexts_of

REFERENCE = "reference"
"""The name of our own reference among the engines."""

OWN_PROMPTS = "hidden-states"
"""The prompts that are the texts of the hidden states."""

DEFAULT_TIMEOUT = 1800.0
"""Seconds that one run of an engine may take."""

Drafting = Literal["greedy", "probabilistic"]
DRAFTING: tuple[Drafting, ...] = get_args(Drafting)


@dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """How the reference measures.

    Attributes:
        drafting: ``greedy`` takes the head's arg max, ``probabilistic`` samples from it at the temperature asked for.
        responses: file of responses to replay, in place of generating them; with ``hidden_states`` of a producer
            that does not say where the answers are, they say it.
        hidden_states: folder of saved hidden states to replay, in place of running the target: eagle3hub's, or those
            of vLLM, speculators, SpecForge or ModelOpt.
        states_layers: after-layer ids of these states, where their files do not say.
        own_texts: whether you say that the target wrote the texts of these states, where nothing shows it.
        save_responses, save_hidden_states: where to keep the texts, and what the target computed over them.
        device_map: accelerate's placement of the target (``auto``), or None for one device.
        batch_tokens: most tokens in one pass of the target, or None for the device's default.

    Raises UsageError for an unknown drafting, and for options that exclude each other.
    """

    drafting: str = "greedy"
    responses: str | Path | None = None
    hidden_states: str | Path | None = None
    states_layers: tuple[int, ...] | None = None
    own_texts: bool = False
    save_responses: str | Path | None = None
    save_hidden_states: str | Path | None = None
    device_map: str | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.drafting not in DRAFTING:
            raise UsageError(
                f"no drafting is called {self.drafting!r}",
                hint=f"drafting: {', '.join(DRAFTING)}",
                code="usage-drafting",
            )
        if self.hidden_states is not None and (self.save_responses or self.save_hidden_states):
            raise UsageError(
                "--hidden-states holds the texts and what the target computed over them",
                hint="leave out --save-responses and --save-hidden-states",
                code="usage-hidden-states",
            )
        if self.hidden_states is None and (self.states_layers is not None or self.own_texts):
            raise UsageError(
                f"{'--own-texts' if self.states_layers is None else '--states-layers'} is about --hidden-states, and "
                "there are none",
                hint="give the folder with --hidden-states",
                code="usage-hidden-states",
            )


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """What `validate` measures, and how.

    Attributes:
        engine: ``reference``, an engine, or several (``reference,vllm``, or a list). With the reference among them,
            every engine is held to it.
        prompts: name of a prompt set, or a JSON Lines file. num_prompts: take the first so many.
        context: length that each prompt is brought to with text of its set, in tokens (``4k``); None: as they are.
        system_prompt: goes before every prompt; None for none.
        second_turns: file of the target's responses to the first turns, to validate the second ones; None: the first.
        max_new_tokens: limit per prompt, in tokens.
        draft_tokens: K of a chain, or the depth of a tree.
        topk, num_draft_tokens: with ``topk`` above 1, SGLang's trees: branches per token, and nodes, root included.
        temperature: 0 is greedy.
        min_acceptance_length: bar for the acceptance length; without it only the collapse line counts.
        acceptance_reference: file of an earlier measurement (``acceptance.reference.yaml``) to hold this one against.
        reference_head: the head whose replay engines are held against, in place of the head itself. The original of a
            converted head also shows what is wrong with the conversion.
        reference: how the reference measures.
        engine_python: interpreter to use in place of the installed environment, by engine.
        endpoints: by engine, the address of a running server to attach to in place of starting the engine. Engines
            that ``engine`` does not name are added. The report says what such a server does not show.
        timeout: seconds for each of the two runs of an engine.
        run_anyway: start also an engine that will refuse the files, or serve them silently wrong.
        target_name: what the report calls the target.
        engine_settings: how engines are started and prompts are rendered beyond all this.

    Raises UsageError for names that do not exist, numbers that make no sense, and options that exclude each other.
    """

    engine: str | Sequence[str] = REFERENCE
    device: str = "cpu"
    dtype: str = "float32"
    prompts: str | Path = "smoke"
    num_prompts: int | None = None
    context: str | None = None
    system_prompt: str | None = None
    second_turns: str | Path | None = None
    max_new_tokens: int = 64
    draft_tokens: int = 3
    topk: int = 1
    num_draft_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    min_acceptance_length: float | None = None
    acceptance_reference: str | Path | None = None
    reference_head: str | Path | None = None
    reference: ReferenceOptions = field(default_factory=ReferenceOptions)
    engine_python: Mapping[str, str | Path] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    run_anyway: bool = False
    target_name: str | None = None
    engine_settings: EngineSettings = field(default_factory=EngineSettings)

    def __post_init__(self) -> None:
        names = self.engines
        if self.device not in DEVICES:
            raise UsageError(f"no device is called {self.device!r}", hint=f"devices: {', '.join(DEVICES)}")
        if self.device == "tpu" and REFERENCE in names:
            raise UsageError(
                "the reference computes on cpu and cuda, not on tpu",
                hint="name the engine alone, as in --engine sglang_jax",
                code="usage-reference-device",
            )
        if self.dtype not in DTYPES:
            raise UsageError(f"no dtype is called {self.dtype!r}", hint=f"dtypes: {', '.join(DTYPES)}")
        self._check_numbers()
        check_tree(self.draft_tokens, self.topk, self.num_draft_tokens)
        if self.prompts == OWN_PROMPTS and (self.reference.hidden_states is None or names != [REFERENCE]):
            raise UsageError(
                f"--prompts {OWN_PROMPTS} are the texts of --hidden-states, which only the reference can replay",
                hint=f"--engine {REFERENCE} --hidden-states DIR, or other prompts",
                code="usage-hidden-states",
            )
        if self.prompts == OWN_PROMPTS and (self.contexts or self.system_prompt or self.second_turns):
            raise UsageError(
                f"--prompts {OWN_PROMPTS} are the texts of --hidden-states as they are, which --context, "
                "--system-prompt and --second-turns would change",
                hint="leave these out",
                code="usage-hidden-states",
            )
        if self.prompts == OWN_PROMPTS and self.reference.responses is not None:
            raise UsageError(
                f"--prompts {OWN_PROMPTS} are the texts of --hidden-states as they are, and --responses names others",
                hint="leave one out",
                code="usage-hidden-states",
            )
        if self.reference_head is not None and REFERENCE not in names:
            raise UsageError(
                "--reference-head says what the reference replays, but the reference is not among the engines",
                hint=f"--engine {REFERENCE},{','.join(names)}",
                code="usage-reference-head",
            )
        check_started(self.engine_settings, [n for n in names if n != REFERENCE], self.endpoints, self.engine_python)

    def _check_numbers(self) -> None:
        for option, value in (("--max-new-tokens", self.max_new_tokens), ("--draft-tokens", self.draft_tokens)):
            if value < 1:
                raise UsageError(f"{option} must be 1 or more, not {value}")
        if not self.temperature >= 0:
            raise UsageError(f"the temperature must be 0 or more, not {self.temperature}")
        if not self.timeout > 0:
            raise UsageError(f"--timeout must be more than 0 seconds, not {self.timeout:g}")
        if len(self.contexts) > 1:
            raise UsageError(
                "--context names several lengths, and a validation has one",
                hint="measure several with eagle3hub bench",
                code="usage-context",
            )
        k, bar = self.draft_tokens, self.min_acceptance_length
        if bar is not None and not 1 <= bar <= k + 1:
            raise UsageError(
                f"--min-acceptance-length {bar:g} cannot be: with {k} draft tokens the acceptance length lies "
                f"between 1 and {k + 1}"
            )

    @property
    def contexts(self) -> list[int]:
        """The length of each prompt in tokens; empty for prompts as they are."""
        return [] if self.context is None else contexts_of(self.context)

    @property
    def engines(self) -> list[str]:
        """The engines by name, those with an endpoint included."""
        return engine_names(self.engine, self.endpoints)


def engine_names(asked: str | Sequence[str], attached: Iterable[str] = ()) -> list[str]:
    """``"reference,vllm"`` or a list of names as a list; UsageError for an unknown, doubled or missing name.

    Engines whose servers are ``attached`` come after those that are named.
    """
    parts = asked.split(",") if isinstance(asked, str) else asked
    known = (REFERENCE, *ENGINES)
    names = []
    for given in parts:
        names.append(given.strip().replace("-", "_"))
        if names[-1] not in known:
            raise no_such_engine(given.strip(), known)
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--engine names {name} twice", code="usage-engine")
    return [*names, *(name for name in attached if name not in names)]


def check_started(
    settings: EngineSettings, engines: Sequence[str], attached: Iterable[str], pythons: Mapping[str, str | Path]
) -> None:
    """Hold engine settings against the engines that a run asks for (`check_engine_settings`), servers among them.

    Raises UsageError, also for settings of a server that runs already.
    """
    if not settings:
        return
    from eagle3hub.engines.environments import version_in
    from eagle3hub.engines.options import check_engine_settings

    servers = [name for name in engines if name in attached]
    of_servers = [name for name in servers if settings.arguments.get(name) or settings.environment.get(name)]
    if of_servers or (settings.tensor_parallel > 1 and servers and len(servers) == len(engines)):
        raise UsageError(
            f"{engine_title((of_servers or servers)[0])} is a server that runs already, and the engine settings say "
            "how to start it",
            hint="start it with them yourself, and leave out --tensor-parallel, --engine-arg and --engine-env",
            code="usage-endpoint",
        )
    known = [name for name in settings.arguments if name in pythons]
    check_engine_settings(settings, {name: found for name in known if (found := version_in(name, pythons))})


def check_tree(draft_tokens: int, topk: int, num_draft_tokens: int | None) -> None:
    """UsageError for a tree that no engine drafts."""
    if topk < 1:
        raise UsageError(f"--topk must be 1 or more, not {topk}", code="usage-tree")
    if topk == 1 and num_draft_tokens not in (None, draft_tokens + 1):
        raise UsageError(
            f"--num-draft-tokens {num_draft_tokens}: a chain of {draft_tokens} verifies {draft_tokens + 1} tokens",
            hint="leave it out, or give --topk as well for a tree",
            code="usage-tree",
        )
    if topk > 1 and num_draft_tokens is None:
        raise UsageError(
            "--topk drafts a tree, but nothing says how many of its tokens are verified",
            hint="give --num-draft-tokens, the root included",
            code="usage-tree",
        )


def writable_report(path: Path) -> None:
    """Raise OutputError now, rather than after the run, if a report cannot be written to ``path``."""
    check_place(path)


def writable_page(path: Path) -> None:
    """Raise now, rather than after the run, if a page with charts cannot be drawn or written to ``path``."""
    writable_report(path)
    require_drawing()
