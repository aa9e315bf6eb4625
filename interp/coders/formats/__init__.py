"""How coders lie on disk: SAELens' names and arrays where it has the architecture, ours where it has not."""
