"""Load prompt sets: the packaged smoke set, data sets fetched on first use, and JSON Lines files in MT-Bench's form.

Each line is an object with ``question_id``, ``category`` and ``turns``; the first turn is the prompt. ``images`` may
name files beside it, for a target that takes images. ``smoke`` was written for this project. The usual benchmark sets
(`datasets`) are not packaged, because their licences differ and some forbid redistribution. They are fetched at a
pinned revision and must have the pinned SHA-256.
"""

from __future__ import annotations

from pathlib import Path

from eagle3hub.errors import SourceError, UsageError
from eagle3hub.prompts.fetch import is_cached, read_dataset
from eagle3hub.prompts.sets import (
    SECOND_TURNS,
    Context,
    Dataset,
    Image,
    ImagesUsed,
    Message,
    Prompt,
    PromptSet,
    Tokenizer,
    context_name,
    contexts_of,
    datasets,
    lengthened,
    parse_prompts,
    parse_rows,
    second_turns,
)
from eagle3hub.system.documents import did_you_mean
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import read_bytes

__all__ = [
    "PACKAGED",
    "SECOND_TURNS",
    "Context",
    "Dataset",
    "Image",
    "ImagesUsed",
    "Message",
    "Prompt",
    "PromptSet",
    "Tokenizer",
    "context_name",
    "contexts_of",
    "datasets",
    "is_cached",
    "lengthened",
    "load_prompts",
    "second_turns",
]

PACKAGED = ("smoke",)
_HERE = Path(__file__).resolve().parent


def load_prompts(
    name_or_file: str | Path, num_prompts: int | None = None, *, progress: Progress = silent
) -> PromptSet:
    """Load the first ``num_prompts`` prompts (default: all) of a packaged set, a fetched set, or a file.

    A set that is not in the cache is fetched first, and ``progress`` is told its licence. For a file with the name of
    a set, write ``./name``.

    Raises SourceError for a file that cannot be read, InputError (``prompts-line``) for a wrong line, UsageError if
    there are fewer prompts, and the errors of `read_dataset`.
    """
    if num_prompts is not None and num_prompts < 1:
        raise UsageError(f"--num-prompts must be 1 or more, not {num_prompts}")
    dataset = datasets().get(name_or_file) if isinstance(name_or_file, str) else None
    if dataset is not None:
        raw, dataset = read_dataset(dataset, progress)
        name = dataset.name
        if dataset.rows is None:
            prompts = parse_prompts(raw, name, category=dataset.category)
        else:
            prompts = parse_rows(raw, name, dataset.rows)
    elif name_or_file in PACKAGED:
        name, prompts = str(name_or_file), _of_file(_HERE / f"{name_or_file}.jsonl")
    else:
        name, prompts = Path(name_or_file).name, _of_file(Path(name_or_file))
    if num_prompts is not None and num_prompts > len(prompts):
        raise UsageError(f"--num-prompts asks for {num_prompts} prompts, but {name} has {len(prompts)}")
    return PromptSet(name, prompts[:num_prompts], dataset)


def _of_file(path: Path) -> tuple[Prompt, ...]:
    try:
        raw = read_bytes(path)
    except OSError as error:
        known = [*PACKAGED, *datasets()]
        raise SourceError(
            f"cannot read the prompts {str(path)!r}: {error.strerror or error}{did_you_mean(str(path), known)}",
            hint=f"give a JSON Lines file, or the name of a set: {', '.join(known)}",
            code="source-prompts",
        ) from error
    return parse_prompts(raw, str(path), image=lambda name: _image(path.parent, name))


def _image(folder: Path, name: str) -> bytes:
    """Read the image that a line names; ValueError unless it lies in the folder of the prompts, or below."""
    file = folder / name
    if Path(name).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the image {name!r} is not in the folder of the prompts")
    try:
        return read_bytes(file)
    except OSError as error:
        raise ValueError(f"the image {name!r} cannot be read: {error.strerror or error}") from error
