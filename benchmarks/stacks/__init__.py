"""Who loads what Gesso exports: every client in its own Python, measured; writes docs/stacks.md."""
