"""How far a batch has come, as a bar on a terminal and as lines elsewhere."""
