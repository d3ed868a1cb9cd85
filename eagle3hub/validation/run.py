"""Validate a head: static checks, then the target alone and with the head on an engine, then the rules."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.source import HUB
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import DEVICES, DTYPES, Engine, EngineRun, Job, Verdict, worst
from eagle3hub.errors import SourceError, UnavailableError, UsageError
from eagle3hub.layouts import open_head
from eagle3hub.progress import Progress, silent
from eagle3hub.prompts import load_prompts
from eagle3hub.report import SCHEMA_NAME, Report
from eagle3hub.validation.gates import COLLAPSE
from eagle3hub.validation.subject import context_length, identify_target, kv_cache_gib
from eagle3hub.validation.trial import Trial

DEFAULT_TIMEOUT = 1800.0


def validate(
    head_source: str | Path,
    *,
    target: str | Path,
    engine: str = "vllm",
    device: str = "cpu",
    dtype: str = "float32",
    prompts: str | Path = "smoke",
    num_prompts: int | None = None,
    max_new_tokens: int = 64,
    draft_tokens: int = 3,
    temperature: float = 0.0,
    seed: int = 0,
    min_acceptance_length: float | None = None,
    engine_python: Mapping[str, str | Path] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    target_name: str | None = None,
    baseline_cache: dict[str, EngineRun] | None = None,
    progress: Progress = silent,
) -> Report:
    """Validate the head in a folder against its target on a real engine.

    Args:
        head_source: the head's folder, or ``hf://owner/name[@revision]``, in any known layout.
        target: the target's folder, or its Hub id.
        prompts: name of a packaged set, or a JSON Lines file; ``num_prompts`` takes the first so many.
        draft_tokens: K of a chain. max_new_tokens: per prompt.
        min_acceptance_length: bar for the acceptance length; without it only the collapse line counts.
        engine_python: interpreter to use instead of the installed environment, by engine.
        timeout: seconds for each of the two runs of the engine.
        target_name: what the report calls the target.
        baseline_cache: keeps the runs of the target alone, for reuse with another layout of the same head.

    Returns:
        The report, whatever its verdict. A head with errors is not run: its report has no engines.

    Raises:
        UsageError, InputError: bad options, unreadable head, target or prompts.
        UnavailableError: the engine is not installed, or not for this device.
    """
    runner = get_engine(engine)
    _check_options(device, dtype, max_new_tokens, draft_tokens, temperature, min_acceptance_length, timeout)
    on_hub = str(head_source).startswith(HUB)
    folder = Path(head_source).expanduser().resolve()
    if not on_hub and not folder.is_dir():
        raise SourceError(
            f"the head {str(head_source)!r} is not a folder",
            hint="name the folder, or a repository as hf://owner/name",
            code="source-head",
        )
    chosen = load_prompts(prompts, num_prompts)
    subject = identify_target(str(target), target_name)
    progress("reading the head")
    checkpoint = open_checkpoint(head_source if on_hub else folder, progress=progress)
    folder = checkpoint.folder
    head = open_head(checkpoint, target=subject.source)
    static_verdict: Verdict = "fail" if any(p.severity == "error" for p in head.problems) else "pass"
    tokens = context_length(subject, max(len(p.text.encode()) for p in chosen.prompts), max_new_tokens)
    job = Job(
        target=subject.source,
        head=folder,
        prompts=chosen,
        device="cuda" if device == "cuda" else "cpu",
        dtype=next(d for d in DTYPES if d == dtype),
        draft_tokens=draft_tokens,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        max_model_len=tokens,
        kv_cache_gib=kv_cache_gib(subject, tokens),
    )
    inability = runner.unable(job)
    if inability:
        raise UnavailableError(inability, hint="measure at temperature 0, or on CUDA", code="engine-unable")
    engines: list[dict[str, Any]] = []
    if static_verdict == "pass":
        python = _interpreter(runner, job, engine_python)
        trial = Trial(runner, job, subject, head, python, timeout, min_acceptance_length, progress)
        engines.append(trial.run(baseline_cache if baseline_cache is not None else {}))
    digest, files = folder_digest(folder)
    verdicts: list[Verdict] = [static_verdict, *(entry["verdict"] for entry in engines)]
    return Report(
        {
            "schema": SCHEMA_NAME,
            "tool": {"name": "eagle3hub", "version": __version__},
            "measured_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "verdict": worst(verdicts),
            "head": {
                "source": checkpoint.source if on_hub else folder.name,
                "layout": head.layout,
                "digest": digest,
                "files": [dict(f) for f in files],
            },
            "target": subject.to_json(),
            "prompts": chosen.to_json(),
            "settings": _settings(job, min_acceptance_length),
            "static": {
                "verdict": static_verdict,
                "problems": [problem.to_json() for problem in head.problems],
                "assumptions": [assumption.to_json() for assumption in head.assumptions],
            },
            "engines": engines,
        }
    )


def _check_options(
    device: str,
    dtype: str,
    max_new_tokens: int,
    draft_tokens: int,
    temperature: float,
    bar: float | None,
    timeout: float,
) -> None:
    if device not in DEVICES:
        raise UsageError(f"no device is called {device!r}", hint=f"devices: {', '.join(DEVICES)}")
    if dtype not in DTYPES:
        raise UsageError(f"no dtype is called {dtype!r}", hint=f"dtypes: {', '.join(DTYPES)}")
    for option, value in (("--max-new-tokens", max_new_tokens), ("--draft-tokens", draft_tokens)):
        if value < 1:
            raise UsageError(f"{option} must be 1 or more, not {value}")
    if not temperature >= 0:
        raise UsageError(f"the temperature must be 0 or more, not {temperature}")
    if not timeout > 0:
        raise UsageError(f"--timeout must be more than 0 seconds, not {timeout:g}")
    if bar is not None and not 1 <= bar <= draft_tokens + 1:
        raise UsageError(
            f"--min-acceptance-length {bar:g} cannot be: with {draft_tokens} draft tokens the acceptance length lies "
            f"between 1 and {draft_tokens + 1}"
        )


def _interpreter(engine: Engine, job: Job, given: Mapping[str, str | Path] | None) -> Path:
    from eagle3hub.engines import envs

    if given and engine.name in given:
        python = Path(given[engine.name]).expanduser()
        if not python.is_file():
            raise UnavailableError(
                f"there is no interpreter {str(python)!r} for {engine.name}", code="engine-python-missing"
            )
        return python.absolute()
    if job.device == "cuda" and not Path("/dev/nvidiactl").exists():
        raise UnavailableError(
            "this machine has no CUDA device", hint="validate on CPU with --device cpu", code="device-missing"
        )
    return envs.interpreter(engine.name, job.device)


def _settings(job: Job, bar: float | None) -> dict[str, Any]:
    return {
        "draft_tokens": job.draft_tokens,
        "temperature": job.temperature,
        "max_new_tokens": job.max_new_tokens,
        "seed": job.seed,
        "dtype": job.dtype,
        "device": job.device,
        "concurrency": 1,
        "min_acceptance_length": bar,
        "collapse_acceptance_length": COLLAPSE,
        "chat_template": "the target's own",
        "system_prompt": None,
    }
