"""What a model is asked for a problem, and the completion that its text makes."""

from dataclasses import dataclass

from flextune.generation.settings import Generation
from flextune.languages import LANGUAGES, comment_marker
from flextune.tasks import Problem, completion_of, message, truncate

PLAN = "Plan, step by step:"


@dataclass(frozen=True)
class Question:
    """A problem as a model is asked it."""

    problem: Problem
    text: str
    """A prompt to go on with, or a user's message if it is a chat."""
    lead: str = ""
    """The end of `text` that is part of the completion."""
    chat: bool = False

    @property
    def stop(self) -> tuple[str, ...]:
        """Where the text ends; a reply ends by itself."""
        return () if self.chat else self.problem.stop

    def completion(self, text: str) -> str:
        """The completion in what the model wrote: cut as the benchmark defines it, or taken from a reply."""
        if self.chat:
            return completion_of(text, self.problem)
        return self.lead + truncate(text, self.problem.stop)


def question(problem: Problem, generation: Generation) -> Question:
    """Ask a problem: with its prompt as it is, stripped, followed by the beginning of a plan, or in a chat."""
    if generation.chat:
        return Question(problem, message(problem, plan=generation.chain_of_thought), chat=True)
    prompt = problem.prompt.strip() if generation.strip_prompt else problem.prompt
    lead = _plan(problem) if generation.chain_of_thought else ""
    if lead and not prompt.endswith("\n"):
        lead = f"\n{lead}"
    return Question(problem, prompt + lead, lead)


def _plan(problem: Problem) -> str:
    """The first words of a plan in comments, as far to the right as the function's first line."""
    marker = comment_marker(problem.language)
    last = problem.prompt.rstrip().rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    # at the margin, a comment would be a stop string where a function's head ends with neither
    known = LANGUAGES.get(problem.language)
    if last.endswith(("{", ":")) or (known and known.functions_end == "word"):
        indent += "    "
    return f"{indent}{marker} {PLAN}\n{indent}{marker} 1."
