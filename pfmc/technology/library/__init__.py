"""The technology files that come with pfmc."""
