"""One file per system; each turns a Config into the System the training loop knows."""
