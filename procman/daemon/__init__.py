"""The parent side: the loop around the pure arbiter, and the effects it performs."""
