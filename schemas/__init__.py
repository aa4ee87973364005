"""What the hub and its clients both say: events, frames, cursors, errors. Models and pure functions, no I/O."""
