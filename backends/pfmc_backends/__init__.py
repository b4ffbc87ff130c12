"""The backends that come with pfmc, each a package that both emits and reads."""
