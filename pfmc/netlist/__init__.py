"""The Netlist: tiles of primitives, each with the block of a matrix that it must realise."""
