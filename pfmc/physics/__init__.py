"""Physics as plain array functions in SI units and float64: no files, no representations of the compiler."""
