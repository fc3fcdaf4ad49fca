"""The two commands: procmand, which supervises, and procmanctl, which steers it."""
