"""Primitives: the kinds of physical block, and what each can hold."""
