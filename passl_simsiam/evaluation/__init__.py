"""How good a representation is: pure functions on arrays, no configuration."""
