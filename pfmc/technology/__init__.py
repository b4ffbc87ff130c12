"""Technologies: the schema, the loader and the library of files."""
