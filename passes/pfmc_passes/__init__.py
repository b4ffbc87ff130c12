"""The passes that come with pfmc, each a module."""
