"""A backend without a model: it writes what it is told, and remembers what it was asked."""

from flextune.generation.backend import Text


class KilledError(Exception):
    """The process was killed here."""


def echo(request):
    """A text that tells its request from any other: its prompt, its seed and the mode."""
    return f"<{request.prompt}|{request.seed}|{'chat' if request.chat else 'plain'}>"


class FakeBackend:
    """Writes `text(request)` for each request; `dies_at` is the number of the batch that kills it, from 0."""

    def __init__(self, text=echo, dies_at=None):
        self.text, self.dies_at = text, dies_at
        self.batches, self.used = [], []
        self.loads = self.closes = 0

    def load(self, *_):
        """In the place of `engine.load`."""
        self.loads += 1
        return self

    @property
    def asked(self):
        return [request for batch in self.batches for request in batch]

    def use(self, adapter, merged=False):
        self.used.append((adapter, merged))

    def count(self, request):
        return len(request.prompt)

    def generate(self, requests, decoding, limit):
        if len(self.batches) == self.dies_at:
            raise KilledError
        self.batches.append(list(requests))
        texts = [self.text(request) for request in requests]
        return [text if isinstance(text, Text) else Text(text, "stop", len(text)) for text in texts]

    def close(self):
        self.closes += 1
