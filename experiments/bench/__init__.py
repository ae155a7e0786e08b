"""How fast, and with how much memory? Contenders side by side."""
