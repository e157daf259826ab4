"""One file per kind of aggregate: its columns, what an edge contributes, how a host takes it, and how it is computed anew."""
