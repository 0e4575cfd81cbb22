"""Execution: programs that a model wrote, judged by their tests in a sandbox.

    verdicts = execute([Program("HumanEval/0", 0, "python", prompt, completion, tests)])

Nothing here imports torch.
"""

from flextune.execution.engine import execute
from flextune.execution.program import Program
from flextune.execution.settings import Execution, Limits
from flextune.execution.stage import judge_completions
from flextune.execution.verdict import Verdict
from flextune.languages import LANGUAGES

__all__ = ["LANGUAGES", "Execution", "Limits", "Program", "Verdict", "execute", "judge_completions"]
