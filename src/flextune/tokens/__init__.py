"""Texts and tokens: where a prompt ends and a completion begins, the same in training and in generation."""

from flextune.tokens.boundary import Tokens

__all__ = ["Tokens"]
