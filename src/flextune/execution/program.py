"""What is judged."""

from dataclasses import dataclass

from flextune.tasks import StandardInput


@dataclass(frozen=True)
class Program:
    """One completion with the problem that it answers."""

    task_id: str
    sample: int
    language: str
    prompt: str
    completion: str
    tests: str | StandardInput
